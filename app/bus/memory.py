"""The log in memory: for development, for tests, and for one process that may forget.

It lives as long as its process, and so does its epoch. What it holds is bounded: messages by each channel's
history and by :data:`LOG_BYTES` over all channels, keys by :mod:`app.bus.remembered`.

A name that holds nothing is forgotten with its offset. No offset may come twice in one epoch, so whatever is named for
the first time, or again, begins after the highest offset that was forgotten: then a position of a forgotten name is
before the first message that will come, and whoever brings it is told of a gap rather than of nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Container, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count

import structlog

from app.bus.backend import PAGE_BYTES, Backend, Health, Retention
from app.bus.remembered import MAX_KEYS, Keys
from app.core.channel import History
from app.core.errors import AbideError, bare
from app.core.message import Batch, Message, Page, Position, Published, Record
from app.core.ports import Outcome
from app.core.tail import OVERHEAD, Messages, footprint

LOG_BYTES = 64 * 1024 * 1024
"""What the messages of all channels together take, at most: the oldest go first, whosever they are."""

_BATCH_MESSAGES = 1000
_BATCH_BYTES = 1024 * 1024
_SWEEP_SECONDS = 10.0
_SWEEP_SLICE = 500
"""Channels that a sweep looks at in one turn of the event loop."""

_SPARE = 1000
"""Places that may be kept for nothing."""

_LOG_OVERHEAD = 400
"""Bytes that CPython takes for a channel besides its messages."""

_EVERYTHING = 2**63

_log = structlog.get_logger(__name__)


class _Log:
    """One channel's messages."""

    __slots__ = ("is_unused", "messages", "queued", "used")

    def __init__(self, offset: int, now: int) -> None:
        self.messages = Messages(offset)
        self.queued = False
        """Whether it is in the store's queue."""
        self.used = now
        """When it was last appended to, or begun."""
        self.is_unused = True
        """Whether nothing was ever appended: then it may go at once, for it has no offset to lose."""


class _Store:
    """The logs of all channels, bounded together; those of ``followed`` channels are never forgotten."""

    def __init__(self, most: int, followed: Container[str]) -> None:
        self._most = most
        self._followed = followed
        self._used = 0
        self.floor = 0
        """The highest offset of a channel that was forgotten."""
        self._logs: dict[str, _Log] = {}
        self._queue: list[tuple[int, int, str]] = []
        """A heap: when the oldest message of each log was stored, or one that it had before that; a number, by which
        of two in one millisecond the one that entered earlier is the older; and the log's channel."""
        self._number = count()

    def __len__(self) -> int:
        return len(self._logs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs)

    def get(self, channel: str) -> _Log | None:
        """Return a channel's log if it ever had a message."""
        return self._logs.get(channel)

    def open(self, channel: str, now: int) -> _Log:
        """Return a channel's log; begin it if there is none."""
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = _Log(self.floor, now)
            self._used += _LOG_OVERHEAD
        return log

    def compact(self) -> None:
        """Give back what is kept for channels that were forgotten."""
        if len(self._queue) > 2 * len(self._logs) + _SPARE:
            self._queue = [entry for entry in self._queue if entry[2] in self._logs]
            heapify(self._queue)
            self._logs = dict(self._logs)

    def forget_idle(self, channel: str, before: int) -> None:
        """Forget a channel that holds nothing and was not used since ``before``."""
        log = self._logs.get(channel)
        if log is not None and log.used < before:
            self._forget_empty(channel, log)

    def forget_unused(self, channel: str) -> None:
        """Forget a channel that nobody has published to since it was begun."""
        log = self._logs.get(channel)
        if log is not None and log.is_unused:
            self._forget_empty(channel, log)

    def append(self, channel: str, now: int, data: bytes) -> Message:
        """Store a message, and let go of the oldest ones that no longer fit."""
        log = self._logs.get(channel) or self.open(channel, now)
        log.used, log.is_unused = now, False
        message = Message(log.messages.head + 1, now, data)
        log.messages.extend((message,))
        self._used += len(data) + OVERHEAD
        if not log.queued:
            self._enqueue(channel, log)
        while self._used > self._most and self._queue:
            self._drop_oldest()
        return message

    def trim(self, channel: str, history: History, now: int) -> None:
        """Forget what the history no longer shows."""
        log = self._logs.get(channel)
        if log is None:
            return
        messages = log.messages
        if len(messages) > history.size:
            self._drop(messages, messages.head - history.size)
        expired = now - history.ttl * 1000
        while (oldest := messages.oldest()) and oldest.time < expired:
            self._drop(messages, oldest.offset)

    def _enqueue(self, channel: str, log: _Log) -> None:
        oldest = log.messages.oldest()
        if oldest is not None:
            log.queued = True
            heappush(self._queue, (oldest.time, next(self._number), channel))

    def _drop_oldest(self) -> None:
        time_, _, channel = heappop(self._queue)
        log = self._logs.get(channel)
        if log is None:  # forgotten meanwhile
            return
        log.queued = False
        oldest = log.messages.oldest()
        if oldest is not None and oldest.time <= time_:  # else that one is gone already
            self._drop(log.messages, oldest.offset)
        self._enqueue(channel, log)
        self._forget_empty(channel, log)

    def _forget_empty(self, channel: str, log: _Log) -> None:
        if not len(log.messages) and channel not in self._followed:
            self.floor = max(self.floor, log.messages.head)
            del self._logs[channel]
            self._used -= _LOG_OVERHEAD

    def _drop(self, messages: Messages, offset: int) -> None:
        self._used -= footprint(messages.drop_through(offset))


class MemoryBackend(Backend):
    """A bounded log per channel. ``clock`` returns seconds since the Unix epoch."""

    def __init__(
        self,
        retention: Retention,
        *,
        clock: Callable[[], float] = time.time,
        log_bytes: int = LOG_BYTES,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self.epoch = secrets.token_hex(8)
        """The id of this life of the log."""
        self._retention = retention
        self._clock = clock
        self._cursors: dict[str, int] = {}
        """Offset of the last message handed out of each followed channel."""
        self._logs = _Store(log_bytes, self._cursors)
        self._keys = Keys(max_keys)
        self._sweeping: asyncio.Task[None] | None = None
        self._behind: dict[str, None] = {}
        """Followed channels with more to hand out, the longest waiting first."""
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<MemoryBackend {len(self._logs)} channels, {len(self._cursors)} followed>"

    async def connect(self) -> None:
        """Begin to sweep."""
        self._sweeping = asyncio.create_task(self._sweep_on(), name="memory-sweep")

    async def disconnect(self) -> None:
        """Sweep no more."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:  # noqa: ARG002
        """Store the records; see the contract."""
        now = int(self._clock() * 1000)
        outcomes = [self._append(record, now) for record in records]
        for channel in {record.channel for record in records}:
            self._trim(channel, now)
        return outcomes

    async def sweep(self) -> None:
        """Let go of what no history shows any more, and of names that hold nothing for as long as they might."""
        now = int(self._clock() * 1000)
        more = True
        while more:
            more = self._keys.forget(now)
            await asyncio.sleep(0)
        for place, channel in enumerate(list(self._logs)):
            if place % _SWEEP_SLICE == 0:
                await asyncio.sleep(0)
            self._trim(channel, now)
            self._logs.forget_idle(channel, now - self._retention(channel).ttl * 1000)
        self._logs.compact()

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 — a bug is logged, and the next sweep comes all the same
                _log.exception("sweep_failed")

    async def read(self, channel: str, after: int, limit: int, history: History) -> Page:
        """Read what the history shows; see the contract."""
        log = self._logs.get(channel)
        if log is None:
            return Page(self._logs.floor + 1, self._logs.floor, (), self.epoch)
        messages = log.messages
        shown = max(messages.first, messages.head - history.size + 1)
        oldest = int(self._clock() * 1000) - history.ttl * 1000
        for message in messages.after(shown - 1, len(messages), _EVERYTHING):
            if message.time >= oldest:
                break
            shown = message.offset + 1
        found = messages.after(max(after, shown - 1), limit, PAGE_BYTES)
        return Page(shown, messages.head, found, self.epoch)

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        log = self._logs.get(channel)
        return log.messages.head if log else self._logs.floor

    async def follow(self, channel: str) -> Position:
        """Begin at the head."""
        head = self._logs.open(channel, int(self._clock() * 1000)).messages.head
        self._cursors[channel] = head
        return Position(self.epoch, head)

    async def unfollow(self, channel: str) -> None:
        """Forget the cursor."""
        self._cursors.pop(channel, None)
        self._behind.pop(channel, None)
        self._logs.forget_unused(channel)

    async def next_batch(self) -> Batch:
        """Hand out what the channel that waits longest has, as one batch."""
        while True:
            while not self._behind:
                self._news.clear()
                await self._news.wait()
            channel = next(iter(self._behind))
            del self._behind[channel]
            found = self._next(channel)
            self._trim(channel, int(self._clock() * 1000))
            if found:
                return Batch(channel, self.epoch, found)

    async def health(self) -> Health:
        """Memory is always there."""
        return Health(ok=True, detail="memory, in this process alone")

    def _next(self, channel: str) -> tuple[Message, ...]:
        """Return the next messages of a followed channel; none when they had to go before they were handed out."""
        log = self._logs.get(channel)
        if log is None:
            return ()
        found = log.messages.after(self._cursors[channel], _BATCH_MESSAGES, _BATCH_BYTES)
        self._cursors[channel] = found[-1].offset if found else log.messages.head
        if self._cursors[channel] < log.messages.head:
            self._behind[channel] = None
        return found

    def _append(self, record: Record, now: int) -> Outcome:
        if record.key is not None:
            try:
                known = self._keys.find(record, now)
            except AbideError as error:
                return bare(error)
            if known is not None:
                return Published(Position(self.epoch, known), replayed=True)
        message = self._logs.append(record.channel, now, record.data)
        if record.key is not None:
            self._keys.add(record, message.offset, now)
        if record.channel in self._cursors:
            self._behind[record.channel] = None
            self._news.set()
        return Published(Position(self.epoch, message.offset))

    def _trim(self, channel: str, now: int) -> None:
        # What a follower has not been handed yet stays, whatever the history's size.
        if channel not in self._behind:
            self._logs.trim(channel, self._retention(channel), now)
