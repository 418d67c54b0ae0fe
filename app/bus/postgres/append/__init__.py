"""How messages get into the log: commits of publishers, and moves of the outbox."""
