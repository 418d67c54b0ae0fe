"""A fuzz of WebSockets: what clients send, right and wrong, and whether the server is well afterwards."""
