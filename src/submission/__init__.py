"""What submit.py is made of: submission.csv, the competition's files, the Kaggle client, the leaderboard."""
