"""The HTTP and WebSocket edge: no SQL, no broadcaster, no ordering rules."""
