"""The tail: the newest messages of a channel, kept in memory once for all its subscriptions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import itemgetter

from app.core.message import Batch, Message, Position

_SPARE = 8
"""At most one in so many messages in the list is one that was dropped already."""

OVERHEAD = 200
"""Bytes that CPython needs for a message besides its data: tuple, int objects, bytes header, a place in a list."""

_BATCH_OVERHEAD = 160
"""Bytes that the budget needs for a batch."""

TAIL_BYTES = 64 * 1024 * 1024
"""The most bytes of all tails of a process."""

_SHARE = 32
"""All tails of a process take at most one in so many bytes of the machine: in a rolling restart with two workers, three
processes have tails."""

_DATA = itemgetter(Message._fields.index("data"))
"""Returns the data of a message, in half of the time that its name takes."""


def tail_bytes(memory: int) -> int:
    """Return how many bytes all tails of a process may take on a machine with so many bytes of memory."""
    return min(TAIL_BYTES, memory // _SHARE)


def footprint(messages: Sequence[Message]) -> int:
    """Return how many bytes of memory messages need."""
    if len(messages) == 1:  # as mostly
        return len(_DATA(messages[0])) + OVERHEAD
    return sum(map(len, map(_DATA, messages))) + len(messages) * OVERHEAD


def fitting(messages: Sequence[Message], max_bytes: int) -> tuple[Message, ...]:
    """Return as many of the first messages as have at most ``max_bytes`` of data; at least one if there is one."""
    if len(messages) == 1 or sum(map(len, map(_DATA, messages))) <= max_bytes:  # as mostly
        return tuple(messages)
    size = 0
    for count, message in enumerate(messages):
        size += len(message.data)
        if size > max_bytes and count:
            return tuple(messages[:count])
    return tuple(messages)


class Messages:
    """Consecutive messages of one channel: appended at the end, dropped at the start.

    A list with a moving start, so that the cost of a read depends only on how much it returns.
    """

    __slots__ = ("_items", "_start", "head")

    def __init__(self, head: int) -> None:
        self.head = head
        self._items: list[Message] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._items) - self._start

    @property
    def first(self) -> int:
        """Offset of the oldest message held; ``head + 1`` if there is none."""
        return self.head + 1 - len(self._items) + self._start

    def oldest(self) -> Message | None:
        """Return the oldest message held."""
        return self._items[self._start] if len(self) else None

    def append(self, message: Message) -> None:
        """Append the message whose offset follows the head."""
        self._items.append(message)
        self.head = message.offset

    def extend(self, messages: Iterable[Message]) -> None:
        """Append messages whose offsets follow the head."""
        items = self._items
        items.extend(messages)
        if items:
            self.head = items[-1].offset  # the last one dropped had the head's offset, if all were dropped

    def prepend(self, messages: Sequence[Message]) -> None:
        """Put back messages whose offsets end before the first."""
        self._items[: self._start] = messages
        self._start = 0

    def drop_through(self, offset: int) -> list[Message]:
        """Forget the messages up to and including ``offset``, and return them."""
        held = len(self._items) - self._start
        count = min(max(0, offset - self.head + held), held)
        dropped = self._items[self._start : self._start + count]
        self._start += count
        if self._start * _SPARE > len(self._items):
            del self._items[: self._start]
            self._start = 0
        return dropped

    def after(self, offset: int, max_messages: int, max_bytes: int) -> tuple[Message, ...]:
        """Return messages past ``offset`` or from the oldest held: at least one if there is one."""
        begin = self._start + max(0, offset + 1 - self.first)
        return fitting(self._items[begin : begin + max_messages], max_bytes)

    def past(self, offset: int) -> tuple[Message, ...] | None:
        """Return all messages past ``offset``; None if some of them are not held any more."""
        items, missing = self._items, self.head - offset
        if missing > len(items) - self._start:
            return None
        if missing == 1:  # as mostly
            return (items[-1],)
        return tuple(items[-missing:]) if missing > 0 else ()


class TailBudget:
    """Limits the bytes of all tails of a process: the oldest batch is dropped first, whichever channel it is of."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._order: deque[tuple[Tail, int, int]] = deque()

    def has_room(self, messages: Sequence[Message]) -> bool:
        """Whether messages fit without dropping others."""
        return self._used + footprint(messages) + _BATCH_OVERHEAD <= self._limit

    def take(self, tail: Tail, messages: Sequence[Message]) -> None:
        """Count messages that ``tail`` now holds, and drop those that were counted longest ago until all fit."""
        size = footprint(messages) + _BATCH_OVERHEAD
        self._order.append((tail, messages[-1].offset, size))
        self._used += size
        while self._used > self._limit:
            oldest, offset, freed = self._order.popleft()
            oldest.messages.drop_through(offset)
            self._used -= freed


class Tail:
    """One channel's newest messages in this process."""

    __slots__ = ("_budget", "epoch", "messages", "told")

    def __init__(self, budget: TailBudget) -> None:
        self.epoch = self.told = ""
        """The label of positions, and the label of the newest message; valid after :meth:`start`."""
        self.messages = Messages(0)
        self._budget = budget

    @property
    def head(self) -> int:
        """Offset of the newest message that this process has seen."""
        return self.messages.head

    def start(self, position: Position) -> None:
        """Begin after ``position``."""
        self.epoch = self.told = position.epoch
        self.messages = Messages(position.offset)

    def change_epoch(self, position: Position) -> None:
        """Go on after ``position``, in another epoch; forget the messages after it."""
        self.epoch = position.epoch
        if position.offset != self.head:
            self.told = position.epoch
            self.messages = Messages(position.offset)

    def deliver(self, batch: Batch) -> None:
        """Take the next messages.

        If the bus left some out, the messages before them are dropped: the tail stays
        consecutive, and a cursor before the hole reads the log.
        """
        _, epoch, messages = batch
        self.epoch = self.told = epoch
        held, first = self.messages, messages[0].offset
        if first != held.head + 1:
            held = self.messages = Messages(first - 1)
        held.extend(messages)
        self._budget.take(self, messages)

    def recall(self, messages: Sequence[Message]) -> None:
        """Take older messages that were read from the log, if they end where the tail begins and there is room.

        After a start the tail is empty, and thousands come back who have missed the same messages.
        """
        begin, first, last = self.messages.first, messages[0].offset, messages[-1].offset
        older = messages[: max(0, begin - first)]
        if older and last + 1 >= begin and last - first + 1 == len(messages) and self._budget.has_room(older):
            self.messages.prepend(older)
            self._budget.take(self, older)

    def shows_after(self, offset: int, size: int, since: int) -> bool:
        """Whether it has all messages past ``offset``: at most ``size``, and none of a time before ``since``."""
        messages = self.messages
        if not max(messages.first, self.head - size + 1) <= offset + 1 <= self.head:
            return False
        return messages.after(offset, 1, 0)[0].time >= since
