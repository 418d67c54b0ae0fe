"""The log in memory: for development, for tests, and for one process that may forget.

It lives as long as its process, and so does its epoch. What it holds is bounded: messages by each channel's
history and by :data:`LOG_BYTES` over all channels, keys by :mod:`app.bus.remembered`. A name that ever had a
message keeps its offset, and about half a KiB for it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from app.bus.backend import PAGE_BYTES, Backend, Health, Retention
from app.bus.remembered import MAX_KEYS, Keys
from app.core.channel import History
from app.core.errors import AbideError
from app.core.message import Batch, Message, Page, Position, Published, Record
from app.core.ports import Outcome
from app.core.tail import OVERHEAD, Messages, footprint

LOG_BYTES = 64 * 1024 * 1024
"""What the messages of all channels together take, at most: the oldest go first, whosever they are."""

_BATCH_MESSAGES = 1000
_BATCH_BYTES = 1024 * 1024
_SWEEP_SECONDS = 10
_EVERYTHING = 2**63


class _Log:
    """One channel's messages."""

    __slots__ = ("messages", "queued")

    def __init__(self) -> None:
        self.messages = Messages(0)
        self.queued = False
        """Whether it is in the store's queue."""


class _Store:
    """The logs of all channels, bounded together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._logs: dict[str, _Log] = {}
        self._queue: list[tuple[int, str]] = []
        """A heap: when the oldest message of each log was stored, or of one that it had before that."""

    def __len__(self) -> int:
        return len(self._logs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs)

    def get(self, channel: str) -> _Log | None:
        """Return a channel's log if it ever had a message."""
        return self._logs.get(channel)

    def append(self, channel: str, now: int, data: bytes) -> Message:
        """Store a message, and let go of the oldest ones that no longer fit."""
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = _Log()
        message = Message(log.messages.head + 1, now, data)
        log.messages.extend((message,))
        self._used += len(data) + OVERHEAD
        if not log.queued:
            self._enqueue(channel, log)
        while self._used > self._most:
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
            heappush(self._queue, (oldest.time, channel))

    def _drop_oldest(self) -> None:
        time_, channel = heappop(self._queue)
        log = self._logs[channel]
        log.queued = False
        oldest = log.messages.oldest()
        if oldest is not None and oldest.time <= time_:  # else that one is gone already
            self._drop(log.messages, oldest.offset)
        self._enqueue(channel, log)

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
        self._epoch = secrets.token_hex(8)
        self._retention = retention
        self._clock = clock
        self._logs = _Store(log_bytes)
        self._keys = Keys(max_keys)
        self._swept = 0
        self._cursors: dict[str, int] = {}
        """Offset of the last message handed out of each followed channel."""
        self._behind: dict[str, None] = {}
        """Followed channels with more to hand out, the longest waiting first."""
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<MemoryBackend {len(self._logs)} channels, {len(self._cursors)} followed>"

    @property
    def epoch(self) -> str:
        """The id of this process's log."""
        return self._epoch

    async def connect(self) -> None:
        """Nothing to connect to."""

    async def disconnect(self) -> None:
        """Nothing to let go of."""

    async def append(self, records: Sequence[Record]) -> list[Outcome]:
        """Store the records; see the contract."""
        now = int(self._clock() * 1000)
        outcomes = [self._append(record, now) for record in records]
        for channel in {record.channel for record in records}:
            self._trim(channel, now)
        if now - self._swept > _SWEEP_SECONDS * 1000:
            self._swept = now
            self._keys.forget(now)
            for channel in self._logs:
                self._trim(channel, now)
        return outcomes

    async def read(self, channel: str, after: int, limit: int, history: History) -> Page:
        """Read what the history shows; see the contract."""
        log = self._logs.get(channel)
        if log is None:
            return Page(1, 0, ())
        messages = log.messages
        shown = max(messages.first, messages.head - history.size + 1)
        oldest = int(self._clock() * 1000) - history.ttl * 1000
        for message in messages.after(shown - 1, len(messages), _EVERYTHING):
            if message.time >= oldest:
                break
            shown = message.offset + 1
        found = messages.after(max(after, shown - 1), limit, PAGE_BYTES)
        return Page(shown, messages.head, found)

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        log = self._logs.get(channel)
        return log.messages.head if log else 0

    async def follow(self, channel: str) -> Position:
        """Begin at the head."""
        head = await self.head(channel)
        self._cursors[channel] = head
        return Position(self.epoch, head)

    async def unfollow(self, channel: str) -> None:
        """Forget the cursor."""
        self._cursors.pop(channel, None)
        self._behind.pop(channel, None)

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
                return error
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
