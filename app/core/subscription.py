"""A subscription is a cursor over a channel's log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.core import frames
from app.core.channel import Channel, Identity, SlowSubscriber
from app.core.errors import AbideError, GapError, UnavailableError
from app.core.fanout import Fanout
from app.core.message import Message, Position
from app.core.ports import Source, Writer

MAX_MESSAGES = 256
MAX_BYTES = 256 * 1024
"""One read hands over at most so many messages and bytes, but always one message."""

_Fanout = Fanout["Subscription"]


class Subscription:
    """One connection's cursor on one channel.

    At the head it is served with all others there; behind the head from the tail, and from the
    log where the tail no longer reaches back. Nothing is queued for it but what its connection's
    one bounded buffer holds: a reader that is slow only leaves its cursor behind.

    It is driven in one of two ways: pushed into a :class:`~app.core.ports.Writer`
    (:meth:`attach`), or pulled (:meth:`next`) where the server has no such thing.
    """

    __slots__ = (
        "_ended",
        "_fanout",
        "_on_end",
        "_reading",
        "_source",
        "_writer",
        "channel",
        "cursor",
        "identity",
        "name",
    )

    def __init__(self, name: str, channel: Channel, identity: Identity, fanout: _Fanout, source: Source) -> None:
        self.name = name
        """The channel's name; of a family, the member's."""
        self.channel = channel
        """The rules in force, replaced on reload."""
        self.identity = identity
        self.cursor = fanout.tail.head
        """Offset of the last message handed over; valid while it is not live."""
        self._fanout = fanout
        self._source = source
        self._ended: AbideError | None = None
        self._writer: Writer | None = None
        """Valid from :meth:`attach` on."""
        self._on_end: Callable[[AbideError], None] | None = None
        self._reading: asyncio.Task[None] | None = None
        """The read of the log under way, if any; only while behind what the tail holds."""

    def __repr__(self) -> str:
        return f"<Subscription {self.name} at {self.position}, head {self._fanout.tail.head}>"

    @property
    def position(self) -> Position:
        """Where the cursor stands."""
        return Position(self._fanout.tail.epoch, self._fanout.position(self))

    def end(self, error: AbideError) -> None:
        """Hand over nothing more, and say why: to the callback of :meth:`attach`, or from :meth:`next`."""
        self._ended = error
        self._fanout.leave(self)
        self._fanout.tail.wake()
        if self._on_end is not None:
            self._on_end(error)

    def attach(self, writer: Writer, on_end: Callable[[AbideError], None]) -> None:
        """Send everything past the cursor into ``writer`` from now on.

        ``on_end`` is called at most once: with :class:`GapError` when the log no longer holds what
        comes next, with what :meth:`end` was given, or because a slow subscriber is to be disconnected.
        """
        self._writer, self._on_end = writer, on_end
        if self._ended is not None:
            on_end(self._ended)
        else:
            self.advance()

    def full(self) -> None:
        """Learn that the writer is full: stop being live until :meth:`drained`."""
        self._fanout.leave(self)
        if self.channel.slow_subscriber is SlowSubscriber.DISCONNECT and self._ended is None:
            self.end(UnavailableError("too slow: reconnect and resume"))

    def drained(self) -> None:
        """Learn that the writer has room again."""
        if self.channel.slow_subscriber is SlowSubscriber.DROP:
            self.cursor = self._fanout.tail.head
        self.advance()

    def advance(self) -> None:
        """Send on from the cursor until the writer is full or the head is reached."""
        writer, tail = self._writer, self._fanout.tail
        while writer is not None and self._ended is None and self._reading is None and not writer.is_full():
            if self.cursor == tail.head:
                self._fanout.join(self, writer.write)
                return
            if not self._in_tail():
                self._reading = asyncio.get_running_loop().create_task(self._send_from_log(writer))
                return
            self._send(writer, tail.messages.after(self.cursor, MAX_MESSAGES, MAX_BYTES))

    def detach(self) -> None:
        """Send nothing more: the connection is gone."""
        self._writer = self._on_end = None
        if self._reading is not None:
            self._reading.cancel()

    async def next(self) -> tuple[Message, ...]:
        """Wait for messages past the cursor, return them in order and move the cursor.

        Raises :class:`GapError` when the log no longer holds what comes next, and what
        :meth:`end` was given.
        """
        tail = self._fanout.tail
        while True:
            if self._ended is not None:
                raise self._ended
            if self.cursor == tail.head:
                await tail.moved()
                continue
            if self._in_tail():
                messages = tail.messages.after(self.cursor, MAX_MESSAGES, MAX_BYTES)
            else:
                messages = await self._read_log()
            self.cursor = messages[-1].offset
            return messages

    def _in_tail(self) -> bool:
        tail = self._fanout.tail
        return tail.messages.first <= self.cursor + 1 <= tail.head

    def _send(self, writer: Writer, messages: tuple[Message, ...]) -> None:
        self.cursor = messages[-1].offset
        writer.write(frames.plain(messages))

    async def _send_from_log(self, writer: Writer) -> None:
        try:
            self._send(writer, await self._read_log())
        except AbideError as error:
            self.end(error)
        finally:
            self._reading = None
        self.advance()

    async def _read_log(self) -> tuple[Message, ...]:
        """Return the next messages of the log; at least one."""
        page = await self._source.read(self.name, self.cursor, MAX_MESSAGES, self.channel.history)
        if page.first > self.cursor + 1 or not page.messages:
            msg = (
                f"the history of {self.name!r} no longer reaches back to offset {self.cursor + 1}: "
                f"it starts at {page.first}, and its head is {page.head}"
            )
            raise GapError(msg)
        return page.messages
