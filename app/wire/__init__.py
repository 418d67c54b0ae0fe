"""What bytes mean: HTTP/1.1, WebSocket frames and event streams, without I/O."""
