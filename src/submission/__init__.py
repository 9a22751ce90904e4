"""The parts of submit.py: submission.csv, the competition's files, the Kaggle client, the leaderboard."""
