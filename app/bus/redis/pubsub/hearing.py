"""What this process hears of the channels that it follows, and where it may have missed something.

Redis keeps nothing of what is published while nobody hears it. So a connection that was lost is a loss in each channel:
after the messages that came before, and before those that come over the next connection. It is told when all topics
are subscribed again, because who reloads its state then misses nothing later.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from app.bus.redis.pubsub import publications
from app.bus.redis.pubsub.fence import Fence
from app.core.message import Batch, Loss, Message, Position
from app.core.ports import Meter

MAX_HELD_BYTES = 32 * 1024 * 1024
"""The most bytes of all channels together that wait to be handed out. What comes then is lost, and the loss is told."""

_MOST = 1000
"""The most messages in one batch."""

_WARNED_SECONDS = 60.0
"""The least time between two warnings."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Cursor:
    channel: str
    head: int
    """Offset of the newest message, as this process counts them."""
    time: int = 0
    """That of the newest message."""
    waiting: list[Message] = field(default_factory=list)
    """What was heard and is not handed out yet."""
    lost_after: int | None = None
    """The offset after which messages may be lost; None once that was told."""
    is_full: bool = False
    """Whether what comes until then is lost as well."""

    @property
    def before_loss(self) -> int:
        """How many of those that wait came before the loss."""
        return len(self.waiting) - (0 if self.lost_after is None else self.head - self.lost_after)


class Hearing:
    """Keeps what is heard until it is taken. Implements ``Listening`` of the subscriber.

    ``fence`` is held before anything is taken again after a loss, and when something was published to its topic.
    ``wake`` is called when there may be something to take.
    """

    def __init__(self, fence: Fence, wake: Callable[[], None], meter: Meter) -> None:
        self._fence = fence
        self._wake = wake
        self._meter = meter
        self._cursors: dict[str, _Cursor] = {}
        """By topic."""
        self._ready: OrderedDict[str, None] = OrderedDict()
        """The topics that have something to hand out, the longest waiting first."""
        self._floor = 0
        """No channel begins before this offset: so none has one twice."""
        self._size = 0
        self._is_deaf = True
        """Whether not all topics are subscribed."""
        self._warned = float("-inf")

    def __len__(self) -> int:
        return len(self._cursors)

    @property
    def held(self) -> int:
        """Bytes of data that wait to be handed out."""
        return self._size

    def begin(self, topic: str, channel: str) -> Position:
        """Keep what is heard of a topic from now on; it must be subscribed."""
        cursor = self._cursors[topic] = _Cursor(channel, self._floor)
        if self._is_deaf:
            cursor.lost_after = cursor.head
        return Position("", cursor.head)

    def end(self, topic: str) -> None:
        """Forget a topic."""
        cursor = self._cursors.pop(topic, None)
        if cursor is not None:
            self._floor = max(self._floor, cursor.head)
            self._size -= _size(cursor.waiting)
        self._ready.pop(topic, None)

    def head(self, topic: str) -> int:
        """Return the offset of the newest message that was heard."""
        cursor = self._cursors.get(topic)
        return self._floor if cursor is None else cursor.head

    def take(self) -> Batch | Loss | None:
        """Return the next messages of any channel, or a loss; None if there is nothing now."""
        while self._ready and not self._fence.is_up:
            topic = next(iter(self._ready))
            del self._ready[topic]
            cursor = self._cursors[topic]
            if count := min(cursor.before_loss, _MOST):
                return self._messages(topic, cursor, count)
            if cursor.lost_after is not None and not self._is_deaf:
                cursor.lost_after, cursor.is_full = None, False
                if cursor.waiting:
                    self._ready[topic] = None
                return Loss(cursor.channel)
        return None

    def heard(self, topic: str, payload: bytes) -> None:
        """Take in a publication."""
        if topic == self._fence.topic:
            self._fence.put_up()
        cursor = self._cursors.get(topic)
        if cursor is None or cursor.is_full:
            return
        try:
            messages = publications.read(payload, cursor.head, cursor.time)
        except ValueError:
            if self._may_warn():
                _log.warning("publication_ignored", topic=topic)
            return
        if self._size > MAX_HELD_BYTES:
            if self._may_warn():
                _log.warning("messages_dropped", channel=cursor.channel, held=self._size)
            self._lose(cursor)
            cursor.is_full = True
        elif messages:
            cursor.head, cursor.time = messages[-1].offset, messages[-1].time
            cursor.waiting += messages
            self._size += _size(messages)
        self._ready[topic] = None
        self._wake()

    async def began(self) -> None:
        """Go on: everything is heard again. Let each channel be told of its loss."""
        self._is_deaf = False
        await self._fence.catch_up()
        self._ready |= {topic: None for topic, cursor in self._cursors.items() if cursor.lost_after is not None}
        self._wake()

    async def look(self) -> None:
        """Do nothing: there is nowhere to look."""

    def lost(self) -> None:
        """Note in each channel where messages may be missing."""
        self._is_deaf = True
        for cursor in self._cursors.values():
            self._lose(cursor)

    def alive(self, seconds: float) -> None:
        """Note how long a beat took."""
        self._meter.heard(seconds)

    def _messages(self, topic: str, cursor: _Cursor, count: int) -> Batch:
        messages = tuple(cursor.waiting[:count])
        del cursor.waiting[:count]
        self._size -= _size(messages)
        if cursor.waiting or cursor.lost_after is not None:
            self._ready[topic] = None
        return Batch(cursor.channel, "", messages)

    def _lose(self, cursor: _Cursor) -> None:
        """Note that messages may be lost now. What came after an earlier loss, which was not told yet, goes as well."""
        if cursor.lost_after is None:
            cursor.lost_after = cursor.head
            return
        before = cursor.before_loss
        self._size -= _size(cursor.waiting[before:])
        del cursor.waiting[before:]
        cursor.head = cursor.lost_after

    def _may_warn(self) -> bool:
        now = time.monotonic()
        is_due = now > self._warned + _WARNED_SECONDS
        self._warned = now if is_due else self._warned
        return is_due


def _size(messages: Sequence[Message]) -> int:
    return sum([len(message.data) for message in messages])
