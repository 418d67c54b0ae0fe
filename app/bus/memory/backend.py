"""The log in memory: for development, for tests, and for one process that may forget.

It lives as long as its process, and so does its epoch. It is bounded: messages by each channel's history and by
:data:`LOG_BYTES` over all channels, keys by :mod:`app.bus.memory.keys`.

A channel that holds nothing is forgotten with its offset. No offset may come twice in one epoch, so a channel that is
new, or comes back, begins after the highest offset that was forgotten. A position in a forgotten channel is then before
the first message that will come, and a subscriber with that position is told of a gap.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import structlog

from app.bus.backend import PAGE_BYTES, Backend, BackendHealth, Retention
from app.bus.memory.keys import MAX_KEYS, MemoryKeys
from app.bus.memory.log import MemoryLogs
from app.core import turns
from app.core.channel import ACCESS, HistoryWindow
from app.core.errors import AbideError, bare
from app.core.message import Batch, Message, Page, Position, Published, Record
from app.core.ports import Outcome
from app.core.turns import Pace, Steps

LOG_BYTES = 64 * 1024 * 1024
"""The most bytes of all channels' messages together. The oldest go first, of whichever channel."""

_BATCH_MESSAGES = 1000
_BATCH_BYTES = 1024 * 1024
_SHORTEST_REST, _LONGEST_REST = 0.5, 10.0
_REST = 50
"""The rest after a sweep is this many times as long as the sweep, within those two bounds, in seconds. Frequent sweeps
keep the memory of unused names small."""

_log = structlog.get_logger(__name__)


class MemoryBackend(Backend):
    """A bounded log per channel.

    ``clock`` returns seconds since the Unix epoch, which become the messages' times. It may jump, so the age of
    messages and keys is measured by ``monotonic``, in seconds too.
    """

    def __init__(
        self,
        retention: Retention,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        log_bytes: int = LOG_BYTES,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self.epoch = secrets.token_hex(8)
        """The id of this life of the log."""
        self._retention = retention
        self._clock = clock
        self._monotonic = monotonic
        self._cursors: dict[str, int] = {}
        """Offset of the last message handed out of each followed channel."""
        self._logs = MemoryLogs(log_bytes, self._cursors)
        self._keys = MemoryKeys(max_keys)
        self._sweeping: asyncio.Task[None] | None = None
        self._behind: OrderedDict[str, None] = OrderedDict()
        """Followed channels with more to hand out, the longest waiting first.

        No dict: its first key costs a look at each key that was removed before it.
        """
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
        now, stamp = int(self._clock() * 1000), self._stamp()
        outcomes = [self._append(record, now, stamp) for record in records]
        if self._behind:
            self._news.set()
        for channel in self._logs.take_due():
            history = self._retention(channel)
            if self._logs.is_overdue(channel, history, stamp):
                self._logs.trim(channel, history, stamp, self._cursors.get(channel))
        return outcomes

    async def sweep(self) -> None:
        """Drop what no history shows any more, and channels that have held nothing for as long as their history."""
        await turns.run(self._sweep())

    async def _sweep_on(self) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(min(max(_REST * took, _SHORTEST_REST), _LONGEST_REST))
            began = time.monotonic()
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 — a bug is logged, and the next sweep still comes
                _log.exception("sweep_failed")
            took = time.monotonic() - began

    def _sweep(self) -> Steps[None]:
        pace = Pace()
        stamp = self._stamp()
        while self._keys.forget(stamp):
            yield from pace.pause()
        for channel in list(self._logs):
            while self._logs.sweep(channel, self._retention(channel), stamp, self._cursors.get(channel)):
                yield from pace.pause()
            if pace.is_over():
                yield
                pace.begin()
        yield from self._logs.compact(pace)

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see the contract."""
        log = self._logs.get(channel)
        if log is None:
            return Page(self._logs.floor + 1, self._logs.floor, (), self.epoch)
        shown = log.first_shown(history, self._stamp())
        found = log.messages.after(max(after, shown - 1), limit, PAGE_BYTES)
        return Page(shown, log.messages.head, found, self.epoch)

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        log = self._logs.get(channel)
        return log.messages.head if log else self._logs.floor

    async def follow(self, channel: str) -> Position:
        """Begin at the head."""
        head = self._logs.open(channel, self._stamp()).messages.head
        self._cursors[channel] = head
        return Position(self.epoch, head)

    async def unfollow(self, channel: str) -> None:
        """Forget the cursor."""
        self._cursors.pop(channel, None)
        self._behind.pop(channel, None)
        self._logs.forget_unused(channel)

    async def next_batch(self) -> Batch:
        """Hand out the messages of the channel that has waited longest, or what was taken back, as one batch."""
        while (batch := self.ready_batch()) is None:
            self._news.clear()
            await self._news.wait()
        return batch

    def ready_batch(self) -> Batch | None:
        """Hand out what is there."""
        while self._behind:
            channel = ACCESS if ACCESS in self._behind else next(iter(self._behind))
            del self._behind[channel]
            found = self._next(channel)
            if found:
                return Batch(channel, self.epoch, found)
        return None

    async def health(self) -> BackendHealth:
        """Memory is always there."""
        return BackendHealth(ok=True, detail="memory, in this process alone")

    def _next(self, channel: str) -> tuple[Message, ...]:
        """Return the next messages of a followed channel; none if they were dropped before they could be handed out."""
        log = self._logs.get(channel)
        if log is None:
            return ()
        messages, cursor = log.messages, self._cursors[channel]
        if messages.head == cursor + 1:  # as mostly
            found = messages.past(cursor) or ()
        else:
            found = messages.after(cursor, _BATCH_MESSAGES, _BATCH_BYTES)
        self._cursors[channel] = cursor = found[-1].offset if found else messages.head
        if cursor < messages.head:
            self._behind[channel] = None
        return found

    def _stamp(self) -> int:
        return int(self._monotonic() * 1000)

    def _append(self, record: Record, now: int, stamp: int) -> Outcome:
        channel, data, key, _ = record
        if key is not None:
            try:
                known = self._keys.find(record, stamp)
            except AbideError as error:
                return bare(error)
            if known is not None:
                return Published(Position(self.epoch, known), replayed=True)
        offset = self._logs.append(channel, now, stamp, data).offset
        if key is not None:
            self._keys.add(record, offset, stamp)
        if channel in self._cursors:
            self._behind[channel] = None
        return Published(Position(self.epoch, offset))
