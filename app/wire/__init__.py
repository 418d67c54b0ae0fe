"""What bytes mean: HTTP/1.1, WebSocket frames, event streams. No I/O, and the standard library only."""
