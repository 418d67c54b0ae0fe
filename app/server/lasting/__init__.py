"""What was handed over: WebSockets and responses that last, until they end."""
