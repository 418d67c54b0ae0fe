"""What every request passes: who calls, from where, and how it is refused and logged."""
