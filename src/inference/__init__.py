"""What infer.py is made of: predictors and their backends, tiles, int8, post-processing."""
