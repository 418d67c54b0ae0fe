"""The log in streams of Redis."""

from app.bus.redis.streams.backend import StreamsBackend

__all__ = ["StreamsBackend"]
