"""What all requests have in common: identifying the caller, refusing, and logging."""
