"""The logs of all channels in memory, bounded together.

A message's time is that of the wall clock, which may jump, so it is only reported. Ages are measured by a clock that
nobody sets: a *stamp* is in milliseconds since an arbitrary moment.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Container, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any

from app.core.channel import HistoryWindow
from app.core.message import Message
from app.core.tail import OVERHEAD, Messages, footprint
from app.core.turns import Pace, Steps

_SPARE = 1000
"""Unused places that may stay in a table before it is rebuilt."""

_LOG_OVERHEAD = 550
"""Bytes that a channel takes in CPython besides its messages."""

_DROPPED_AT_ONCE = 1000
"""The most messages dropped in one step: a quarter of a millisecond."""

_SLACK = 16
"""One in so many of the messages of a history may be kept beyond it while others come: to drop each of them by itself
takes longer than to store one."""

_LOOK_MS = 10_000
"""A history is looked at again after this time at the latest, because a reload may have changed it."""

_Entry = list[Any]
"""An entry of the queue: the stamp of the log's oldest message, or of one that it had before; a serial number, which
orders entries of the same millisecond; and the channel. It is a list, because CPython keeps two thousand freed
tuples, spread over memory that could otherwise be given back."""


class MemoryLog:
    """One channel's messages, and when each was stored."""

    __slots__ = ("_gone", "_look_at", "_most", "_stamps", "entry", "is_unused", "messages", "used")

    def __init__(self, offset: int, stamp: int) -> None:
        self.messages = Messages(offset)
        self._stamps = array("Q")
        self._gone = 0
        """How many of the stamps belong to messages that were dropped."""
        self._most = self._look_at = 0
        """With more messages than that, or from that stamp on, the log may be overdue."""
        self.entry = -1
        """The number of its entry in the queue; -1 if it has none."""
        self.used = stamp
        """When it was last appended to, or begun."""
        self.is_unused = True
        """Whether nothing was ever appended. Then the log can be forgotten at once, since it has no offset to lose."""

    def append(self, message: Message, stamp: int) -> bool:
        """Take one more message; return whether :meth:`is_overdue` is worth asking.

        It needs the history, and to ask for that takes as long as to store a message.
        """
        self.messages.append(message)
        self._stamps.append(stamp)
        self.used, self.is_unused = stamp, False
        return stamp >= self._look_at or len(self._stamps) - self._gone > self._most

    def drop_through(self, offset: int) -> int:
        """Forget the messages up to and including ``offset``; return how many bytes they took."""
        dropped = self.messages.drop_through(offset)
        self._gone += len(dropped)
        if self._gone * 8 > len(self._stamps):
            del self._stamps[: self._gone]
            self._gone = 0
        return footprint(dropped)

    def oldest(self) -> int | None:
        """Return when the oldest message held was stored."""
        return self._stamps[self._gone] if len(self.messages) else None

    def shows_all(self, history: HistoryWindow, stamp: int) -> bool:
        """Whether the history shows every message held, as it mostly does."""
        oldest = self.oldest()
        return oldest is None or (len(self.messages) <= history.size and oldest >= stamp - history.ttl * 1000)

    def is_overdue(self, history: HistoryWindow, stamp: int) -> bool:
        """Whether more is held beyond the history than may wait for the next sweep."""
        held, ttl = len(self._stamps) - self._gone, history.ttl * 1000
        self._most = history.size + history.size // _SLACK
        self._look_at = stamp + min(ttl // _SLACK, _LOOK_MS)
        return held > self._most or (held > 0 and self._stamps[self._gone] < stamp - ttl - ttl // _SLACK)

    def first_shown(self, history: HistoryWindow, stamp: int) -> int:
        """Return the offset of the oldest message that the history shows at this moment."""
        messages = self.messages
        first = max(messages.first, messages.head - history.size + 1)
        since = max(0, stamp - history.ttl * 1000)
        return max(first, messages.first + bisect_left(self._stamps, since, self._gone) - self._gone)


class MemoryLogs:
    """The logs of all channels, in ``most`` bytes together. Logs of ``followed`` channels are never forgotten."""

    def __init__(self, most: int, followed: Container[str]) -> None:
        self._most = most
        self._followed = followed
        self._used = 0
        self.floor = 0
        """The highest offset of a channel that was forgotten."""
        self._logs: dict[str, MemoryLog] = {}
        self._peak = 0
        """The most logs since the table was last rebuilt."""
        self._queue: list[_Entry] = []
        """A heap."""
        self._moving: list[_Entry] = []
        """Another heap, of entries that have not been moved to the first one yet."""
        self._number = count()
        self._due: set[str] = set()
        """Channels that were appended to and may be overdue."""

    def __len__(self) -> int:
        return len(self._logs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs)

    def get(self, channel: str) -> MemoryLog | None:
        """Return a channel's log if it ever had a message."""
        return self._logs.get(channel)

    def open(self, channel: str, stamp: int) -> MemoryLog:
        """Return a channel's log; begin it if there is none."""
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = MemoryLog(self.floor, stamp)
            self._used += _LOG_OVERHEAD
            self._peak = max(self._peak, len(self._logs))
        return log

    def compact(self, pace: Pace) -> Steps[None]:
        """Give back the memory of channels that were forgotten, in steps."""
        if not self._moving and len(self._queue) > 2 * len(self._logs) + _SPARE:
            self._moving, self._queue = self._queue, []
        while self._moving:
            entry = self._moving.pop()  # the last one, so that the rest is still a heap
            if self._log_of(entry) is not None:
                heappush(self._queue, entry)
            yield from pace.pause()
        if self._peak > 2 * len(self._logs) + _SPARE:
            self._logs = dict(self._logs)
            self._peak = len(self._logs)

    def sweep(self, channel: str, history: HistoryWindow, stamp: int, handed_out: int | None = None) -> bool:
        """Do what :meth:`trim` does, and forget the channel if it has held nothing for as long as its history."""
        log = self._logs.get(channel)
        if log is None:
            return False
        is_more = not log.shows_all(history, stamp) and self.trim(channel, history, stamp, handed_out)
        if log.used < stamp - history.ttl * 1000:
            self._forget_empty(channel, log)
        return is_more

    def forget_unused(self, channel: str) -> None:
        """Forget a channel that nobody has published to since it was begun."""
        log = self._logs.get(channel)
        if log is not None and log.is_unused:
            self._forget_empty(channel, log)

    def append(self, channel: str, time: int, stamp: int, data: bytes) -> Message:
        """Store a message, and drop the oldest ones that no longer fit."""
        log = self._logs.get(channel) or self.open(channel, stamp)
        message = Message(log.messages.head + 1, time, data)
        if log.append(message, stamp):
            self._due.add(channel)
        self._used += len(data) + OVERHEAD
        if log.entry < 0:
            self._enqueue(channel, log)
        if self._used > self._most:
            self._make_room()
        return message

    def take_due(self) -> Collection[str]:
        """Return the channels that were appended to since the last call and may be overdue."""
        due = self._due
        if due:
            self._due = set()
        return due

    def is_overdue(self, channel: str, history: HistoryWindow, stamp: int) -> bool:
        """Whether a channel holds so much beyond its history that some of it is dropped at once."""
        log = self._logs.get(channel)
        return log is not None and log.is_overdue(history, stamp)

    def trim(self, channel: str, history: HistoryWindow, stamp: int, handed_out: int | None = None) -> bool:
        """Forget some of what the history no longer shows; return whether there is more of it.

        Of a followed channel, only messages up to ``handed_out`` are forgotten.
        """
        log = self._logs.get(channel)
        if log is None or log.shows_all(history, stamp):
            return False
        first, last = log.messages.first, log.first_shown(history, stamp) - 1
        if handed_out is not None:
            last = min(last, handed_out)
        if last >= first:
            self._used -= log.drop_through(min(last, first + _DROPPED_AT_ONCE - 1))
        return last >= first + _DROPPED_AT_ONCE

    def _enqueue(self, channel: str, log: MemoryLog) -> None:
        oldest = log.oldest()
        log.entry = -1
        if oldest is not None:
            log.entry = next(self._number)
            heappush(self._queue, [oldest, log.entry, channel])

    def _log_of(self, entry: _Entry) -> MemoryLog | None:
        """Return the log of an entry; None if it was forgotten."""
        _, number, channel = entry
        log = self._logs.get(channel)
        return log if log is not None and log.entry == number else None

    def _make_room(self) -> None:
        while self._used > self._most and (self._queue or self._moving):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        moving = self._moving and not (self._queue and self._queue[0] < self._moving[0])
        entry = heappop(self._moving if moving else self._queue)
        log = self._log_of(entry)
        if log is None:
            return
        stamp, _, channel = entry
        oldest = log.oldest()
        if oldest is not None and oldest <= stamp:  # else that message is gone already
            self._used -= log.drop_through(log.messages.first)
        self._enqueue(channel, log)
        self._forget_empty(channel, log)

    def _forget_empty(self, channel: str, log: MemoryLog) -> None:
        if not len(log.messages) and channel not in self._followed:
            self.floor = max(self.floor, log.messages.head)
            del self._logs[channel]
            self._used -= _LOG_OVERHEAD
