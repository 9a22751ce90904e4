"""What bench.py measures: the rows, both sides of each, and the limits of the machine."""
