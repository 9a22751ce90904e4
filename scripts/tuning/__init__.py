"""What tune.py is made of: pictures and networks, ways to see them, candidates, and an honest choice among these."""
