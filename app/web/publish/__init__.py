"""Pushes: from a request to its answer."""
