"""What a worker hears of commits, and what it fetches where it heard nothing."""
