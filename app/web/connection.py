"""One subscriber's connection: the plain form, and what all forms share.

Nothing here waits: a connection is told what happens, and has no task of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine

from app.core import data as json_data
from app.core.channel import Channel, Identity
from app.core.errors import CLOSE_CODES, AbideError, GapError, UnsupportedTypeError
from app.core.hub import Hub
from app.core.message import Published, Record
from app.core.ports import Publisher, Writer
from app.core.resume import Begin, Gap, Reason
from app.core.subscription import Subscription
from app.web.access import Line

_REASON_BYTES = 123
"""What RFC 6455 leaves for the reason of a close."""

_running: set[asyncio.Task[None]] = set()
"""Keeps the tasks of connections alive: the loop alone holds them weakly."""


class Connection:
    """What every form of a connection has: a log line, a writer, and a turn for what its subscriber sends.

    A :class:`~app.core.ports.Peer`; :meth:`handle` and :meth:`release` are the form's own.
    """

    __slots__ = ("_line", "_unhandled", "_writer", "hub", "identity", "publisher")

    def __init__(self, hub: Hub, publisher: Publisher, identity: Identity, line: Line) -> None:
        self.hub = hub
        self.publisher = publisher
        self.identity = identity
        self._line = line
        self._writer: Writer
        """Valid once begun."""
        hub.meter.connected("websocket")
        self._unhandled: deque[bytes] | None = None
        """What the subscriber sent and is not handled yet; None when there is no such thing."""

    def received(self, data: bytes, *, text: bool) -> None:
        """Handle what the subscriber sent, one after the other."""
        if not text:
            self.fail(UnsupportedTypeError("a message is a text frame of JSON; this one is binary"))
        elif self._unhandled is not None:
            self._unhandled.append(data)
        else:
            self._unhandled = deque([data])
            self._writer.pause()
            _start(self._handle_all(self._unhandled))

    def closed(self, code: int) -> None:
        """Give everything back, and write the line."""
        self.hub.meter.disconnected("websocket")
        self.release(self._line)
        self._line.close_code = code
        self._line.write()

    def fail(self, error: AbideError) -> None:
        """Close the connection, and say why."""
        self._line.close_reason = str(error).encode()[:_REASON_BYTES].decode(errors="ignore")
        self._writer.close(CLOSE_CODES[error.code], self._line.close_reason)

    async def handle(self, text: bytes) -> None:
        """Do what one text asks for; an error raised closes the connection."""
        raise NotImplementedError

    def release(self, line: Line) -> None:
        """Unsubscribe, and note in the line how many messages there were."""
        raise NotImplementedError

    async def publish(self, channel: Channel, name: str, data: bytes, key: str | None = None) -> Published:
        """Publish checked JSON for the subscriber; raise why it cannot be."""
        channel.check_client_publish(self.identity)
        channel.check_size(data)
        (outcome,) = await self.publisher.publish([Record(name, data, key, self.identity.name)])
        if isinstance(outcome, AbideError):
            raise outcome
        return outcome

    async def _handle_all(self, texts: deque[bytes]) -> None:
        try:
            while texts:
                await self.handle(texts.popleft())
        except AbideError as error:
            texts.clear()
            self.fail(error)
        self._unhandled = None
        self._writer.resume()


class PlainConnection(Connection):
    """One channel; each text frame is one message's data, both ways."""

    __slots__ = ("_start", "_subscription")

    def __init__(
        self, hub: Hub, publisher: Publisher, identity: Identity, line: Line, subscription: Subscription
    ) -> None:
        super().__init__(hub, publisher, identity, line)
        self._subscription = subscription
        self._start = subscription.cursor

    def begin(self, writer: Writer, where: Begin) -> None:
        """Send what comes after where the subscription begins; nothing after a gap, which has no form here."""
        self._writer = writer
        if where.gap is not None:
            self.lost(self._subscription, where.gap)
        self._subscription.attach(writer, self)

    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """End: what was asked for is not held any more. Only where the channel drops messages it goes on."""
        if gap.reason is not Reason.DROPPED:
            subscription.end(GapError(f"messages after {gap.after} are missing: {gap.reason}"))

    def ended(self, _: Subscription, error: AbideError) -> None:
        """Close."""
        self.fail(error)

    def full(self) -> None:
        """Stop at what was sent."""
        self._subscription.full()

    def drained(self) -> None:
        """Go on from there."""
        self._subscription.drained()

    async def handle(self, text: bytes) -> None:
        """Publish it."""
        subscription = self._subscription
        subscription.channel.check_client_publish(self.identity)
        await self.publish(subscription.channel, subscription.name, json_data.check_bytes(text))

    def release(self, line: Line) -> None:
        """Give back the subscription."""
        line.messages = self._subscription.position.offset - self._start
        self.hub.unsubscribe(self._subscription)


def _start(work: Coroutine[None, None, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
