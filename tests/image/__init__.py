"""Builds the container image without a Docker daemon and uses it."""
