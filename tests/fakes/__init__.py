"""Loopback servers and broken files that tests use in place of the real world."""
