"""The procedural data set: objects, backgrounds and their composition."""
