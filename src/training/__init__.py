"""What train.py is made of: batches, learning rate, run folder, interruption, validation, metrics."""
