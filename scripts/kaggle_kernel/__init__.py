"""Builds, tests and pushes the Kaggle kernel, from here."""
