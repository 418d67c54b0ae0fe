"""gunicorn's master: its options, its listener, and what signals may do."""
