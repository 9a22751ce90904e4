"""Where get_data.py gets pairs and test images from, one module per data.source."""
