"""A subscription is a cursor over a channel's log."""

from __future__ import annotations

import asyncio
from typing import Protocol

from app.core.channel import Channel, SlowSubscriber
from app.core.delivery.catchup import Catchup
from app.core.delivery.encodings import Encoding
from app.core.delivery.fanout import Fanout
from app.core.errors import AbideError, UnavailableError, of_bug
from app.core.message import Message, Position
from app.core.ports import Writer
from app.core.resume import Gap, Reason
from app.core.rights.policy import Identity
from app.core.tail import fitting

MAX_MESSAGES = 256
MAX_BYTES = 256 * 1024
"""The most messages and bytes in one write; a larger message is written alone."""


class Subscriber(Protocol):
    """The connection, which learns what the written messages do not say."""

    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Learn of a gap; the messages after it are sent next, unless this calls :meth:`Subscription.end`."""

    def ended(self, subscription: Subscription, error: AbideError) -> None:
        """Learn that the subscription has ended, and why. Called at most once."""


class Subscription:
    """One connection's cursor on one channel.

    At the head it is written to together with all others there. Behind the head it reads from the
    tail, and from the log where the tail does not reach back far enough. Nothing is queued for it
    beyond its connection's one bounded buffer: if the reader is slow, only the cursor falls behind.
    """

    __slots__ = (
        "_catchup", "_ended", "_fanout", "_hole", "_lost", "_reading", "_subscriber", "_writer", "channel", "cursor",
        "encoding", "identity", "name",
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
        """The channel's current rules; replaced on reload."""
        self.identity = identity
        self.encoding = encoding
        self.cursor = cursor
        """Offset of the last message written; valid while the subscription is not live."""
        self._fanout = fanout
        self._catchup = catchup
        self._ended: AbideError | None = None
        self._lost: Position | None = None
        """The position at which the log went back behind the cursor; reported as a gap once the log was read again."""
        self._hole: tuple[int, int] | None = None
        """The offsets before and after which messages may be lost; reported as a gap once the cursor gets there."""
        self._writer: Writer | None = None
        """Valid between :meth:`attach` and :meth:`detach`, like the subscriber."""
        self._subscriber: Subscriber | None = None
        self._reading: asyncio.Task[None] | None = None
        """The read of the log under way, if any; only while the cursor is behind the tail."""

    def __repr__(self) -> str:
        return f"<Subscription {self.name} at {self.position}, head {self._fanout.tail.head}>"

    @property
    def position(self) -> Position:
        """The position of the cursor."""
        return Position(self._fanout.tail.epoch, self._fanout.position(self))

    @property
    def lag(self) -> int:
        """How many messages the cursor is behind the head."""
        return max(0, self._fanout.tail.head - self._fanout.position(self))

    def attach(self, writer: Writer, subscriber: Subscriber) -> None:
        """Write everything past the cursor to ``writer`` from now on."""
        self._writer, self._subscriber = writer, subscriber
        if self._ended is not None:
            subscriber.ended(self, self._ended)
        else:
            self.advance()

    def detach(self) -> None:
        """Write nothing more: the connection has ended or unsubscribes."""
        self._writer = self._subscriber = None
        self._fanout.slow.discard(self)
        if self._reading is not None:
            self._reading.cancel()

    def fail(self, error: AbideError) -> None:
        """End, as a :class:`~app.core.delivery.sessions.Session` does."""
        self.end(error)

    def end(self, error: AbideError) -> None:
        """Write nothing more, and tell the subscriber why."""
        if self._ended is None:
            self._ended = error
            self._fanout.leave(self)
            if self._subscriber is not None:
                self._subscriber.ended(self, error)

    def full(self) -> None:
        """Learn that the writer is full: write nothing until :meth:`writable`."""
        self._fanout.leave(self)
        self._fanout.slow.add(self)
        if self.channel.slow_subscriber is SlowSubscriber.DISCONNECT:
            self.end(UnavailableError("you read too slowly for this channel: reconnect and resume"))

    def writable(self) -> None:
        """Learn that the writer has room again."""
        self._fanout.slow.discard(self)
        head = self._fanout.tail.head
        if self.channel.slow_subscriber is SlowSubscriber.DROP and self.cursor < head:
            self._skip_to(head + 1, Reason.DROPPED, by_policy=True)
        self.advance()

    def rewound(self, epoch: str, offset: int) -> None:
        """Learn that messages past ``offset``, labelled ``epoch``, are lost, as when a backup was restored."""
        if self.cursor > offset:
            self._lost = self._lost or Position(epoch, self.cursor)
            self.cursor = offset
        self.advance()

    def missed(self, offset: int) -> None:
        """Learn that messages between ``offset`` and the next are lost. What comes after waits for :meth:`advance`."""
        self._hole = (self._hole[0] if self._hole else offset, offset)

    def advance(self) -> None:
        """Write from the cursor on until the writer is full or the head is reached; a bug ends the subscription."""
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001 — the connection reports it
            self.end(of_bug(error))

    def _advance(self) -> None:
        tail = self._fanout.tail
        while (writer := self._writer) and self._ended is None and self._reading is None and not writer.is_full():
            if self._hole is not None and self.cursor >= self._hole[0]:
                end, self._hole = self._hole[1], None
                self._skip_to(max(self.cursor, end) + 1, Reason.DROPPED)
                continue
            # The cursor may be ahead of the head until this process hears of a message that another knew already.
            if self._lost is None and self.cursor >= tail.head:
                self._fanout.join(self, writer)
                return
            if self._lost is not None or self.cursor + 1 < tail.messages.first:
                self._reading = asyncio.get_running_loop().create_task(self._read_on())
                return
            room = MAX_MESSAGES if self._hole is None else min(MAX_MESSAGES, self._hole[0] - self.cursor)
            self._send(tail.messages.after(self.cursor, room, MAX_BYTES))

    def _send(self, messages: tuple[Message, ...]) -> None:
        if self._writer is not None:
            self.cursor = messages[-1].offset
            self._fanout.meter.delivered(self.name, len(messages))
            payload = self._fanout.blocks.encode(self.name, self._fanout.tail.epoch, self.encoding, messages)
            if payload:
                self._writer.write(payload)

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
            else:  # the log went back during the read
                self.advance()
        except AbideError as error:
            self.end(error)
        except Exception as error:  # noqa: BLE001 — the connection reports it
            self.end(of_bug(error))

    async def _read(self, lost: Position | None) -> tuple[int, tuple[Message, ...]]:
        """Return the oldest offset of the history, and the next messages unless a gap must be reported first."""
        if lost is not None:
            return (await self._catchup.window()).first, ()
        return await self._catchup.after(self.cursor)

    def _go_on(self, first: int, messages: tuple[Message, ...]) -> None:
        """Write what was read from the log, after a gap if something is missing."""
        if self._lost is not None:
            self._skip_to(max(first, self.cursor + 1), Reason.AHEAD)
        elif first > self.cursor + 1:
            self._skip_to(first, Reason.EXPIRED)
        elif messages:
            if messages[0].offset > self.cursor + 1:  # the log has a hole: a row was deleted or left out
                self._skip_to(messages[0].offset, Reason.EXPIRED)
            self._fanout.tail.recall(messages)
            self._send(fitting(messages, MAX_BYTES))
        elif self._writer is not None:  # this process has heard of messages that the log does not show: wait for more
            if not self._writer.is_full():  # else :meth:`writable` goes on
                self._fanout.join(self, self._writer)
            return
        self.advance()

    def _skip_to(self, offset: int, reason: Reason, *, by_policy: bool = False) -> None:
        """Go on at ``offset``, and report the gap before it."""
        after, self._lost, self.cursor = self._lost or self.position, None, offset - 1
        if self._subscriber is not None:
            self._fanout.meter.missed(reason)
            self._subscriber.lost(self, Gap(after.text, Position(self._fanout.tail.epoch, offset), reason, by_policy))
