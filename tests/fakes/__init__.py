"""Loopback servers and broken files: the tests use them instead of real services and data."""
