"""Sessions with servers: where they are, how to reach them, what went wrong, and topics that are heard again."""
