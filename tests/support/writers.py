"""Writers that stand in for a connection: one that forgets, and one that a test stalls and lets flow again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from app.core.delivery.encodings import TEXT_END
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError
from app.core.ports import Writer


class Nowhere(Writer):
    """A connection that takes everything, and whose bytes nobody reads."""

    def write(self, data: bytes) -> None:
        """Forget it."""

    def is_full(self) -> bool:
        return False

    def close(self, code: int, reason: str) -> None:
        """Nothing to close."""

    def pause(self) -> None:
        """Nothing to read."""

    def resume(self) -> None:
        """Nothing to read."""


class Stalling(Nowhere):
    """The connection of one subscription at a time, which is full when a test says so."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None
        self._hub: Hub | None = None
        self._full = False

    def subscribed(self, hub: Hub, subscription: Subscription) -> None:
        """Begin with a subscription, and with room."""
        self._hub, self.subscription, self._full = hub, subscription, False

    def leave(self) -> None:
        """End the subscription, if there is one."""
        if self.subscription is not None and self._hub is not None:
            self._hub.unsubscribe(self.subscription)
            self.subscription = None

    def stall(self) -> None:
        """Have no more room."""
        if self.subscription is not None and not self._full:
            self._full = True
            self.subscription.full()

    def flow(self) -> None:
        """Have room again."""
        if self.subscription is not None and self._full:
            self._full = False
            self.subscription.writable()

    def is_full(self) -> bool:
        return self._full

    def ended(self, _: Subscription, error: AbideError) -> None:
        """Fail: a subscription ends here only where a test expects it."""
        raise error


def frames(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON texts of one write, in an encoding that ends each with ``TEXT_END``."""
    for text in data.split(TEXT_END)[:-1]:
        yield json.loads(text)
