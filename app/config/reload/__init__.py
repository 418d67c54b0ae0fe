"""A file that changes while the server runs."""
