"""A subscription is a cursor over a channel's log."""

from __future__ import annotations

from app.core.channel import Channel, Identity
from app.core.errors import AbideError, GapError
from app.core.message import Message, Position
from app.core.ports import Source
from app.core.tail import Tail

MAX_MESSAGES = 256
MAX_BYTES = 256 * 1024
"""One read hands over at most so many messages and bytes, but always one message."""


class Subscription:
    """One connection's cursor on one channel.

    At the head it waits; behind the head it is served from the tail, and from the log where
    the tail no longer reaches back. Nothing is queued for it: a reader that is slow only
    leaves its cursor behind.
    """

    def __init__(self, name: str, channel: Channel, identity: Identity, tail: Tail, source: Source) -> None:
        self.name = name
        """The channel's name; of a family, the member's."""
        self.channel = channel
        """The rules in force, replaced on reload."""
        self.identity = identity
        self.cursor = tail.head
        """Offset of the last message handed over."""
        self._tail = tail
        self._source = source
        self._ended: AbideError | None = None

    def __repr__(self) -> str:
        return f"<Subscription {self.name} at {self.position}, head {self._tail.head}>"

    @property
    def position(self) -> Position:
        """Where the cursor stands."""
        return Position(self._tail.epoch, self.cursor)

    def end(self, error: AbideError) -> None:
        """Make :meth:`next` raise ``error`` from now on."""
        self._ended = error
        self._tail.wake()

    async def next(self) -> tuple[Message, ...]:
        """Wait for messages past the cursor, return them in order and move the cursor.

        Raises :class:`GapError` when the log no longer holds what comes next, and what
        :meth:`end` was given.
        """
        while True:
            if self._ended is not None:
                raise self._ended
            if self.cursor >= self._tail.head:
                await self._tail.moved()
                continue
            messages = await self._read()
            self.cursor = messages[-1].offset
            return messages

    async def _read(self) -> tuple[Message, ...]:
        if self.cursor + 1 >= self._tail.messages.first:
            return self._tail.messages.after(self.cursor, MAX_MESSAGES, MAX_BYTES)
        page = await self._source.read(self.name, self.cursor, MAX_MESSAGES, self.channel.history)
        if page.first > self.cursor + 1 or not page.messages:
            msg = (
                f"the history of {self.name!r} no longer reaches back to offset {self.cursor + 1}: "
                f"it starts at {page.first}"
            )
            raise GapError(msg)
        return page.messages
