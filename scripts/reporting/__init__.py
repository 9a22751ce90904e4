"""What report.py and compare.py are made of: the numbers, the charts, the pages."""
