"""What runs on Kaggle, inside the kernel."""
