"""A subscription is a cursor over a channel's log."""

from __future__ import annotations

import asyncio
from typing import Protocol

from app.core.channel import Channel, Identity, SlowSubscriber
from app.core.delivery.catchup import Catchup
from app.core.delivery.encodings import Encoding
from app.core.delivery.fanout import Fanout
from app.core.errors import AbideError, UnavailableError, of_bug
from app.core.message import Message, Position
from app.core.ports import Writer
from app.core.resume import Gap, Reason
from app.core.tail import fitting

MAX_MESSAGES = 256
MAX_BYTES = 256 * 1024
"""One write hands over at most so many messages and bytes, but always one message."""


class Subscriber(Protocol):
    """Whoever holds the connection: told what bytes of messages cannot tell."""

    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Learn of a gap: the messages that are sent next come after it. May :meth:`Subscription.end`."""

    def ended(self, subscription: Subscription, error: AbideError) -> None:
        """Learn that nothing more is sent, and why. Called at most once."""


class Subscription:
    """One connection's cursor on one channel.

    At the head it is served with all others there; behind the head from the tail, and from the
    log where the tail no longer reaches back. Nothing is queued for it but what its connection's
    one bounded buffer holds: a reader that is slow only leaves its cursor behind.
    """

    __slots__ = (
        "_catchup", "_ended", "_fanout", "_lost", "_reading", "_subscriber", "_writer", "channel", "cursor", "encoding",
        "identity", "name",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917 — the hub alone makes them
        self,
        name: str,
        channel: Channel,
        identity: Identity,
        encoding: Encoding,
        cursor: int,
        fanout: Fanout[Subscription],
        catchup: Catchup,
    ) -> None:
        self.name = name
        """The channel's name; of a family, the member's."""
        self.channel = channel
        """The rules in force, replaced on reload."""
        self.identity = identity
        self.encoding = encoding
        self.cursor = cursor
        """Offset of the last message handed over; valid while it is not live."""
        self._fanout = fanout
        self._catchup = catchup
        self._ended: AbideError | None = None
        self._lost: Position | None = None
        """Where it was when the log went back to before that; it is told when it is known what comes instead."""
        self._writer: Writer | None = None
        """Valid between :meth:`attach` and :meth:`detach`, like the subscriber."""
        self._subscriber: Subscriber | None = None
        self._reading: asyncio.Task[None] | None = None
        """The read of the log under way, if any; only while behind what the tail holds."""

    def __repr__(self) -> str:
        return f"<Subscription {self.name} at {self.position}, head {self._fanout.tail.head}>"

    @property
    def position(self) -> Position:
        """Where the cursor stands."""
        return Position(self._fanout.tail.epoch, self._fanout.position(self))

    @property
    def lag(self) -> int:
        """How many messages it is behind the head."""
        return max(0, self._fanout.tail.head - self._fanout.position(self))

    def attach(self, writer: Writer, subscriber: Subscriber) -> None:
        """Send everything past the cursor into ``writer`` from now on."""
        self._writer, self._subscriber = writer, subscriber
        if self._ended is not None:
            subscriber.ended(self, self._ended)
        else:
            self.advance()

    def detach(self) -> None:
        """Send nothing more: the connection is gone, or wants no more of the channel."""
        self._writer = self._subscriber = None
        self._fanout.slow.discard(self)
        if self._reading is not None:
            self._reading.cancel()

    def end(self, error: AbideError) -> None:
        """Send nothing more, and tell the subscriber why."""
        if self._ended is None:
            self._ended = error
            self._fanout.leave(self)
            if self._subscriber is not None:
                self._subscriber.ended(self, error)

    def full(self) -> None:
        """Learn that the writer is full: stop being live until :meth:`writable`."""
        self._fanout.leave(self)
        self._fanout.slow.add(self)
        if self.channel.slow_subscriber is SlowSubscriber.DISCONNECT:
            self.end(UnavailableError("you read too slowly for this channel: reconnect and resume"))

    def writable(self) -> None:
        """Learn that the writer has room again."""
        self._fanout.slow.discard(self)
        head = self._fanout.tail.head
        if self.channel.slow_subscriber is SlowSubscriber.DROP and self.cursor < head:
            self._skip_to(head + 1, Reason.DROPPED)
        self.advance()

    def rewound(self, epoch: str, offset: int) -> None:
        """Learn that what was sent past ``offset`` is lost, as by a restored backup; ``epoch`` labelled it."""
        if self.cursor > offset:
            self._lost = self._lost or Position(epoch, self.cursor)
            self.cursor = offset
        self.advance()

    def advance(self) -> None:
        """Send on from the cursor until the writer is full or the head is reached; a bug ends the subscription."""
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001 — whoever holds the connection reports it
            self.end(of_bug(error))

    def _advance(self) -> None:
        tail = self._fanout.tail
        while (writer := self._writer) and self._ended is None and self._reading is None and not writer.is_full():
            if (
                self._lost is None and self.cursor >= tail.head
            ):  # or ahead, until this process hears what another knew already
                self._fanout.join(self, writer)
                return
            if self._lost is not None or self.cursor + 1 < tail.messages.first:
                self._reading = asyncio.get_running_loop().create_task(self._read_on())
                return
            self._send(tail.messages.after(self.cursor, MAX_MESSAGES, MAX_BYTES))

    def _send(self, messages: tuple[Message, ...]) -> None:
        if self._writer is not None:
            self.cursor = messages[-1].offset
            self._fanout.meter.delivered(self.name, len(messages))
            self._writer.write(self._fanout.blocks.encode(self.name, self._fanout.tail.epoch, self.encoding, messages))

    async def _read_on(self) -> None:
        try:
            await self._send_from_log()
        except Exception:
            self._fanout.meter.failed("delivery")
            self.end(
                AbideError("the server failed to read the log of messages; its own log says why: reconnect and resume")
            )
            raise

    async def _send_from_log(self) -> None:
        asked, lost = self.cursor, self._lost
        try:
            try:
                first, messages = await self._read(lost)
            finally:
                self._reading = None
            if (asked, lost) == (self.cursor, self._lost):
                self._go_on(first, messages)
            else:  # the log went back meanwhile
                self.advance()
        except AbideError as error:
            self.end(error)
        except Exception as error:  # noqa: BLE001 — whoever holds the connection reports it
            self.end(of_bug(error))

    async def _read(self, lost: Position | None) -> tuple[int, tuple[Message, ...]]:
        """Return the oldest offset shown, and what comes next unless a gap has to be told first."""
        if lost is not None:
            return (await self._catchup.window()).first, ()
        return await self._catchup.after(self.cursor)

    def _go_on(self, first: int, messages: tuple[Message, ...]) -> None:
        """Send what was read of the log."""
        if self._lost is not None:
            self._skip_to(max(first, self.cursor + 1), Reason.AHEAD)
        elif first > self.cursor + 1:
            self._skip_to(first, Reason.EXPIRED)
        elif messages:
            if messages[0].offset > self.cursor + 1:  # the log has a hole: a row was deleted, or left out
                self._skip_to(messages[0].offset, Reason.EXPIRED)
            self._send(fitting(messages, MAX_BYTES))
        elif self._writer is not None:  # the log is not as far as this process has heard: look again when it hears more
            if not self._writer.is_full():  # else it looks again when there is room
                self._fanout.join(self, self._writer)
            return
        self.advance()

    def _skip_to(self, offset: int, reason: Reason) -> None:
        """Go on at ``offset``, and say what is left out."""
        after, self._lost, self.cursor = self._lost or self.position, None, offset - 1
        if self._subscriber is not None:
            self._fanout.meter.missed(reason)
            self._subscriber.lost(self, Gap(str(after), Position(self._fanout.tail.epoch, offset), reason))
