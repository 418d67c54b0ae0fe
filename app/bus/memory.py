"""The log in memory: for development, for tests, and for one process that may forget.

It lives as long as its process, and so does its epoch.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from app.bus.backend import KEY_LIFETIME, Backend, Health, Retention
from app.core.channel import History
from app.core.errors import KeyReusedError
from app.core.message import Batch, Message, Page, Position, Published, Record
from app.core.ports import Outcome
from app.core.tail import Messages

_BATCH_MESSAGES = 1000
_BATCH_BYTES = 1024 * 1024
_SWEEP_SECONDS = 10


class _Log:
    """One channel: its messages, and the keys of the last ten minutes in order of arrival."""

    __slots__ = ("history", "keys", "messages")

    def __init__(self) -> None:
        self.messages = Messages(0)
        self.history = History()
        self.keys: dict[str, Message] = {}

    def trim(self, now: int) -> None:
        """Forget what the history no longer shows; ``now`` in milliseconds."""
        self.messages.drop_through(self.messages.head - self.history.size)
        while (oldest := self.messages.oldest()) and oldest.time < now - self.history.ttl * 1000:
            self.messages.drop_through(oldest.offset)
        while self.keys and (key := next(iter(self.keys))):
            if self.keys[key].time >= now - KEY_LIFETIME * 1000:
                break
            del self.keys[key]


class MemoryBackend(Backend):
    """A bounded log per channel. ``clock`` returns seconds since the Unix epoch."""

    def __init__(self, retention: Retention, *, clock: Callable[[], float] = time.time) -> None:
        self._epoch = secrets.token_hex(8)
        self._retention = retention
        self._clock = clock
        self._logs: dict[str, _Log] = {}
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
        for message in messages.after(shown - 1, len(messages), 2**63):
            if message.time >= oldest:
                break
            shown = message.offset + 1
        found = messages.after(max(after, shown - 1), limit, 2**63)
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
        while not self._behind:
            self._news.clear()
            await self._news.wait()
        channel = next(iter(self._behind))
        del self._behind[channel]
        messages = self._logs[channel].messages
        found = messages.after(self._cursors[channel], _BATCH_MESSAGES, _BATCH_BYTES)
        self._cursors[channel] = found[-1].offset
        if found[-1].offset < messages.head:
            self._behind[channel] = None
        self._trim(channel, int(self._clock() * 1000))
        return Batch(channel, self.epoch, found)

    async def health(self) -> Health:
        """Memory is always there."""
        return Health(ok=True, detail="memory, in this process alone")

    def _append(self, record: Record, now: int) -> Outcome:
        log = self._logs.get(record.channel)
        if log is None:
            log = self._logs[record.channel] = _Log()
        if record.key is not None and (known := log.keys.get(record.key)):
            if known.time >= now - KEY_LIFETIME * 1000:
                return self._replay(record, known)
            del log.keys[record.key]
        message = Message(log.messages.head + 1, now, record.data)
        log.messages.extend((message,))
        if record.key is not None:
            log.keys[record.key] = message
        if record.channel in self._cursors:
            self._behind[record.channel] = None
            self._news.set()
        return Published(Position(self.epoch, message.offset))

    def _replay(self, record: Record, known: Message) -> Outcome:
        if known.data != record.data:
            return KeyReusedError(f"idempotency key {record.key!r} was used before with another message")
        return Published(Position(self.epoch, known.offset), replayed=True)

    def _trim(self, channel: str, now: int) -> None:
        # What a follower has not been handed yet stays, whatever the history's size.
        if channel not in self._behind:
            log = self._logs[channel]
            log.history = self._retention(channel)
            log.trim(now)
