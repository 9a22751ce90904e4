"""The procedural data set: objects, backgrounds and how they are composed."""
