"""A WebSocket that the server has handed over: no task of its own, nothing but its cursor and a log line."""

from __future__ import annotations

import asyncio
from collections import deque

from app.core.errors import CLOSE_CODES, AbideError, UnsupportedTypeError
from app.core.hub import Hub
from app.core.ports import Handover, Publisher
from app.core.subscription import Subscription
from app.web.access import Line
from app.web.publishing import publish_text

REASON_BYTES = 123
"""What RFC 6455 leaves for the reason of a close."""


def close_reason(error: AbideError) -> str:
    """Return what of an error fits into a close frame."""
    return str(error).encode()[:REASON_BYTES].decode(errors="ignore")


class Connection:
    """One subscriber on one channel, in the plain form. A :class:`~app.core.ports.Peer`.

    Besides the protocol's own share it holds the subscription (an object of ten fields and its
    place in the fan-out) and its line for the log.
    """

    __slots__ = ("_hub", "_line", "_publisher", "_start", "_subscription", "_unpublished", "_writer")

    def __init__(self, subscription: Subscription, hub: Hub, publisher: Publisher, line: Line) -> None:
        self._subscription = subscription
        self._hub = hub
        self._publisher = publisher
        self._line = line
        self._start = subscription.cursor
        self._unpublished: deque[bytes] | None = None
        """What the subscriber sent and is not published yet; None when there is no such thing."""

    def begin(self, handover: Handover) -> None:
        """Take the connection over; ends with :meth:`closed`."""
        self._line.kept = True
        self._writer = handover(self)
        self._subscription.attach(self._writer, self._end)

    def received(self, data: bytes, *, text: bool) -> None:
        """Publish what the subscriber sent, one after the other."""
        if not text:
            self._end(UnsupportedTypeError("a message is a text frame of JSON; this one is binary"))
        elif self._unpublished is not None:
            self._unpublished.append(data)
        else:
            self._unpublished = deque([data])
            self._writer.pause()
            task = asyncio.get_running_loop().create_task(self._publish(self._unpublished))
            _publishing.add(task)
            task.add_done_callback(_publishing.discard)

    def full(self) -> None:
        """Stop at what was sent."""
        self._subscription.full()

    def drained(self) -> None:
        """Go on from there."""
        self._subscription.drained()

    def closed(self, code: int) -> None:
        """Give back the subscription, and write the line."""
        line, subscription = self._line, self._subscription
        line.messages = subscription.position.offset - self._start
        self._hub.unsubscribe(subscription)
        line.close_code = code
        line.write()

    async def _publish(self, texts: deque[bytes]) -> None:
        try:
            while texts:
                await publish_text(texts.popleft(), self._subscription, self._publisher)
        except AbideError as error:
            texts.clear()
            self._end(error)
        self._unpublished = None
        self._writer.resume()

    def _end(self, error: AbideError) -> None:
        self._line.close_reason = close_reason(error)
        self._writer.close(CLOSE_CODES[error.code], self._line.close_reason)


_publishing: set[asyncio.Task[None]] = set()
"""Keeps the tasks alive: the loop alone holds them weakly."""
