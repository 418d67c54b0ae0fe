"""Publishing by a subscriber: the policy is asked, the text is checked, the log answers."""

from __future__ import annotations

from app.core import data
from app.core.errors import AbideError
from app.core.message import Record
from app.core.ports import Publisher
from app.core.subscription import Subscription


async def publish_text(text: bytes, subscription: Subscription, publisher: Publisher) -> None:
    """Publish one text frame, UTF-8, to the channel of a subscription; raise why it cannot be."""
    channel = subscription.channel
    channel.check_client_publish(subscription.identity)
    channel.check_size(text)
    (outcome,) = await publisher.publish([Record(subscription.name, data.check_bytes(text))])
    if isinstance(outcome, AbideError):
        raise outcome
