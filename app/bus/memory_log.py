"""The logs of all channels in memory, bounded together.

Times of messages are the wall's, which may jump, and are only told. How old something is goes by a clock that nobody
sets: a *stamp*, in milliseconds since a moment that means nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Container, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any

from app.core.channel import HistoryWindow
from app.core.message import Message
from app.core.tail import OVERHEAD, Messages, footprint
from app.core.turns import Pace, Steps

_SPARE = 1000
"""Places that may be kept for nothing."""

_LOG_OVERHEAD = 550
"""Bytes that CPython takes for a channel besides its messages."""

_DROPPED_AT_ONCE = 1000
"""Messages that are let go of in one step: a quarter of a millisecond."""

_Entry = list[Any]
"""In the queue: when the oldest message of a log was stored, or one that it had before that; a number, by which of two
in one millisecond the one that entered earlier is the older; and the log's channel. No tuple: CPython keeps two
thousand of these when they are free, spread over all the memory that could be given back."""


class Log:
    """One channel's messages, and when each was stored."""

    __slots__ = ("_gone", "_stamps", "entry", "is_unused", "messages", "used")

    def __init__(self, offset: int, stamp: int) -> None:
        self.messages = Messages(offset)
        self._stamps = array("Q")
        self._gone = 0
        """How many of the stamps are those of messages that were dropped."""
        self.entry = -1
        """The number of its entry in the queue; -1 if it has none."""
        self.used = stamp
        """When it was last appended to, or begun."""
        self.is_unused = True
        """Whether nothing was ever appended: then it may go at once, for it has no offset to lose."""

    def append(self, message: Message, stamp: int) -> None:
        """Take one more message."""
        self.messages.extend((message,))
        self._stamps.append(stamp)
        self.used, self.is_unused = stamp, False

    def drop_through(self, offset: int) -> int:
        """Forget the messages up to and including ``offset``; return how many bytes they took."""
        dropped = self.messages.drop_through(offset)
        self._gone += len(dropped)
        if self._gone * 8 > len(self._stamps):
            del self._stamps[: self._gone]
            self._gone = 0
        return footprint(dropped)

    def oldest(self) -> int | None:
        """Return when the oldest message was stored that is held."""
        return self._stamps[self._gone] if len(self.messages) else None

    def shows_all(self, history: HistoryWindow, stamp: int) -> bool:
        """Whether the history shows every message that is held, as it mostly does."""
        oldest = self.oldest()
        return oldest is None or (len(self.messages) <= history.size and oldest >= stamp - history.ttl * 1000)

    def first_shown(self, history: HistoryWindow, stamp: int) -> int:
        """Return the offset of the oldest message that the history shows at this moment."""
        messages = self.messages
        first = max(messages.first, messages.head - history.size + 1)
        since = max(0, stamp - history.ttl * 1000)
        return max(first, messages.first + bisect_left(self._stamps, since, self._gone) - self._gone)


class Logs:
    """All of them; those of ``followed`` channels are never forgotten. ``most`` is in bytes."""

    def __init__(self, most: int, followed: Container[str]) -> None:
        self._most = most
        self._followed = followed
        self._used = 0
        self.floor = 0
        """The highest offset of a channel that was forgotten."""
        self._logs: dict[str, Log] = {}
        self._peak = 0
        """How many there were when the table was as large as it is."""
        self._queue: list[_Entry] = []
        """A heap."""
        self._moving: list[_Entry] = []
        """Another one, of what has not been moved to the first yet."""
        self._number = count()

    def __len__(self) -> int:
        return len(self._logs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs)

    def get(self, channel: str) -> Log | None:
        """Return a channel's log if it ever had a message."""
        return self._logs.get(channel)

    def open(self, channel: str, stamp: int) -> Log:
        """Return a channel's log; begin it if there is none."""
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = Log(self.floor, stamp)
            self._used += _LOG_OVERHEAD
            self._peak = max(self._peak, len(self._logs))
        return log

    def compact(self, pace: Pace) -> Steps[None]:
        """Give back what is kept for channels that were forgotten, in steps."""
        if not self._moving and len(self._queue) > 2 * len(self._logs) + _SPARE:
            self._moving, self._queue = self._queue, []
        while self._moving:
            entry = self._moving.pop()  # the last: what is left is a heap all the same
            if self._log_of(entry) is not None:
                heappush(self._queue, entry)
            yield from pace.pause()
        if self._peak > 2 * len(self._logs) + _SPARE:
            self._logs = dict(self._logs)
            self._peak = len(self._logs)

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

    def append(self, channel: str, time: int, stamp: int, data: bytes) -> Message:
        """Store a message, and let go of the oldest ones that no longer fit."""
        log = self._logs.get(channel) or self.open(channel, stamp)
        message = Message(log.messages.head + 1, time, data)
        log.append(message, stamp)
        self._used += len(data) + OVERHEAD
        if log.entry < 0:
            self._enqueue(channel, log)
        while self._used > self._most and (self._queue or self._moving):
            self._drop_oldest()
        return message

    def trim(self, channel: str, history: HistoryWindow, stamp: int) -> bool:
        """Forget some of what the history no longer shows; return whether there is more of it."""
        log = self._logs.get(channel)
        if log is None or log.shows_all(history, stamp):
            return False
        first, last = log.messages.first, log.first_shown(history, stamp) - 1
        if last >= first:
            self._used -= log.drop_through(min(last, first + _DROPPED_AT_ONCE - 1))
        return last >= first + _DROPPED_AT_ONCE

    def _enqueue(self, channel: str, log: Log) -> None:
        oldest = log.oldest()
        log.entry = -1
        if oldest is not None:
            log.entry = next(self._number)
            heappush(self._queue, [oldest, log.entry, channel])

    def _log_of(self, entry: _Entry) -> Log | None:
        """Return the log that an entry is of; None if that was forgotten."""
        _, number, channel = entry
        log = self._logs.get(channel)
        return log if log is not None and log.entry == number else None

    def _drop_oldest(self) -> None:
        moving = self._moving and not (self._queue and self._queue[0] < self._moving[0])
        entry = heappop(self._moving if moving else self._queue)
        log = self._log_of(entry)
        if log is None:
            return
        stamp, _, channel = entry
        oldest = log.oldest()
        if oldest is not None and oldest <= stamp:  # else that one is gone already
            self._used -= log.drop_through(log.messages.first)
        self._enqueue(channel, log)
        self._forget_empty(channel, log)

    def _forget_empty(self, channel: str, log: Log) -> None:
        if not len(log.messages) and channel not in self._followed:
            self.floor = max(self.floor, log.messages.head)
            del self._logs[channel]
            self._used -= _LOG_OVERHEAD
