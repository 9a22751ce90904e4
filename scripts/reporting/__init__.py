"""What report.py is made of: the numbers, the charts, the page."""
