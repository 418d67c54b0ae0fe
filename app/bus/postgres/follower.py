"""Where each followed channel stands: what was heard, what was handed out, what must be fetched.

A cursor per channel makes notifications mere hints: what is known is dropped, what is missing is
fetched from the log. So nothing that happens to a notification can lose or double a message.

Messages that are heard are taken for what the log holds, because a commit has sealed them. Anybody can
listen, though, and say again later what he heard. That moves nothing: either the cursor is past those
messages; or it was placed before their offsets after an older backup had been restored, and then they
were stored before that, by the time in them. So what is older than the cursor's place is a hint, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from app.core.message import Batch, Message, consecutive

MAX_READY_BYTES = 16 * 1024 * 1024
"""What is kept of all channels together until it is handed out; when it is full, the rest is fetched later."""

MAX_FETCH_CHANNELS = 64

REST_SECONDS = 0.02
"""Between two fetches when the first found nothing: hints that anybody may send cost the database no more."""

Fetch = Callable[[dict[str, int]], Awaitable[dict[str, tuple[int, tuple[Message, ...]]]]]
"""Reads, for each channel, its head and the next messages of the log past an offset. Raises when it cannot."""

Place = tuple[int, int]
"""A channel's head, and the database's clock when it was read, in milliseconds."""


@dataclass(slots=True)
class _Cursor:
    handed: int | None = None
    """Offset of the last message handed out; None until the head was read."""
    head: int = 0
    """The highest offset heard of."""
    since: int = 0
    """Messages from before this, by the database's clock, are not taken from notifications."""
    ready: list[Message] = field(default_factory=list)
    """What follows ``handed`` without a hole."""
    size: int = 0

    @property
    def end(self) -> int:
        return self.ready[-1].offset if self.ready else self.handed or 0


class Follower:
    """Turns hints into each channel's messages in order, each once. ``epoch`` is the log's."""

    def __init__(self, fetch: Fetch) -> None:
        self.epoch = ""
        self._fetch = fetch
        self._cursors: dict[str, _Cursor] = {}
        self._ready: dict[str, None] = {}
        self._behind: dict[str, None] = {}
        self._size = 0
        self._news = asyncio.Event()
        self._rested = 0.0
        """When the next fetch may begin."""

    def __len__(self) -> int:
        return len(self._cursors)

    def __contains__(self, channel: str) -> bool:
        return channel in self._cursors

    def positions(self) -> dict[str, int]:
        """Return the offset of the last message handed out of each channel that has begun."""
        return {name: cursor.handed for name, cursor in self._cursors.items() if cursor.handed is not None}

    async def follow(self, channel: str, read_head: Callable[[str], Awaitable[Place]]) -> int:
        """Begin at the head that ``read_head`` returns; hints that come meanwhile are remembered."""
        cursor = self._cursors[channel] = _Cursor()
        try:
            head, now = await read_head(channel)
        except BaseException:
            self.unfollow(channel)
            raise
        cursor.handed, cursor.since = head, max(cursor.since, now)
        self.look(channel, head)
        return head

    def listen_from(self, now: int) -> None:
        """Learn that what is heard from now on, by the database's clock, is heard by a new session."""
        for cursor in self._cursors.values():
            cursor.since = max(cursor.since, now)

    def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        cursor = self._cursors.pop(channel, None)
        if cursor is not None:
            self._size -= cursor.size
        self._ready.pop(channel, None)
        self._behind.pop(channel, None)

    def hear(self, batch: Batch) -> None:
        """Take messages that a commit has sealed into its notification, of a channel that is followed."""
        cursor = self._cursors[batch.channel]
        out_of_turn = cursor.handed is None or cursor.head > cursor.end or batch.first > cursor.end + 1
        if out_of_turn or batch.messages[0].time < cursor.since:
            self.look(batch.channel, batch.last)
        elif batch.last > cursor.end:
            self._keep(batch.channel, cursor, batch.after(cursor.end))

    def look(self, channel: str, head: int) -> None:
        """Learn that the channel has messages up to ``head``."""
        cursor = self._cursors.get(channel)
        if cursor is None:
            return
        cursor.head = max(cursor.head, head)
        if cursor.handed is not None and cursor.head > cursor.end:
            self._behind[channel] = None
            self._news.set()

    def rewind(self, channel: str, head: int, now: int) -> None:
        """Learn that the log ends before what was handed out: an older database was put in its place."""
        cursor = self._cursors.get(channel)
        if cursor is not None:
            self._forget(channel, cursor)
            cursor.handed = cursor.head = head
            cursor.since = now
            self._behind.pop(channel, None)

    async def next_batch(self) -> Batch:
        """Wait for the next messages of any channel. Raises what ``fetch`` raises; call again then."""
        while not self._ready:
            if self._behind:
                await self._catch_up()
            else:
                await self._hear()
        channel = next(iter(self._ready))
        cursor = self._cursors[channel]
        batch = Batch(channel, self.epoch, consecutive(cursor.ready))
        cursor.handed = batch.last
        rest = cursor.ready[len(batch.messages) :]
        self._forget(channel, cursor)
        if rest:
            self._keep(channel, cursor, rest)
        return batch

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _catch_up(self) -> None:
        if (rest := self._rested - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):  # what is heard meanwhile may be handed out
                await asyncio.wait_for(self._hear(), rest)
            return
        wanted = list(self._behind)[:MAX_FETCH_CHANNELS]
        asked = {name: self._cursors[name].end for name in wanted}
        hints = {name: self._cursors[name].head for name in wanted}
        found = await self._fetch(asked)
        if not any(messages for _, messages in found.values()):
            self._rested = time.monotonic() + REST_SECONDS
        for channel, (head, messages) in found.items():
            cursor = self._cursors.get(channel)
            if cursor is not None and channel in self._behind and cursor.end == asked[channel]:
                if cursor.head == hints[channel]:  # heard of nothing since: the log's word goes before a hint
                    cursor.head = head
                self._take(channel, cursor, head, messages)

    def _take(self, channel: str, cursor: _Cursor, head: int, messages: tuple[Message, ...]) -> None:
        if messages:
            self._keep(channel, cursor, messages)
        else:  # the log no longer holds what is up to its head: go on behind the hole
            cursor.handed = max(cursor.end, head)
        del self._behind[channel]
        if cursor.end < cursor.head:  # again, after the others: who sends hints for many channels holds up no other
            self._behind[channel] = None

    def _keep(self, channel: str, cursor: _Cursor, messages: Sequence[Message]) -> None:
        if self._size >= MAX_READY_BYTES:
            self.look(channel, messages[-1].offset)
            return
        size = sum([len(message.data) for message in messages])
        cursor.ready.extend(messages)
        cursor.size += size
        self._size += size
        cursor.head = max(cursor.head, cursor.end)
        self._ready[channel] = None
        self._news.set()

    def _forget(self, channel: str, cursor: _Cursor) -> None:
        self._size -= cursor.size
        cursor.ready, cursor.size = [], 0
        self._ready.pop(channel, None)
