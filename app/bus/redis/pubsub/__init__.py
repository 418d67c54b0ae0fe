"""Live messages through pub/sub of Redis, which keeps none of them."""

from app.bus.redis.pubsub.backend import PubSubBackend

__all__ = ["PubSubBackend"]
