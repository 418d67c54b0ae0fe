"""Links: WebSockets and responses that last, from their handover until they end."""
