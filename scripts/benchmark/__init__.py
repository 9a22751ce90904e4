"""What bench.py measures: the rows, both sides of each, and what the machine could do."""
