"""Pushes: from a request to what the log says of it."""
