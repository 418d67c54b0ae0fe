"""What operators and platforms see: health, metrics, channels, pages."""
