"""What a worker hears of commits, and how it finds what it did not hear."""
