"""Idempotency keys, from the headers of the log: what every worker and every restart can know.

The first key of a channel makes this worker read the last ten minutes of its topic. From then on it reads on before
each append that has keys, so it knows those of all workers. What two workers append under one key at the same moment is
stored twice, and readers leave out the second one (``repeats``); both publishers are told the first one's position.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from app.bus.backend import KEY_LIFETIME
from app.bus.kafka.log import Log
from app.bus.kafka.records import BATCH, KEY, Stored, header
from app.bus.kafka.topics import Topic
from app.core.errors import OverloadedError
from app.core.message import Record

MAX_KEYS = 300_000
"""The most keys that a worker remembers, about 250 bytes each. Topics that were not used for longest are read again."""

_SKEW_SECONDS = 30
"""How much the clocks of two workers may differ."""


class Known(NamedTuple):
    """The message that was stored first under a key."""

    offset: int
    """Ours."""
    time: int
    data: bytes
    """A hash of it."""


@dataclass(slots=True)
class _Window:
    """The keys of one topic's last ten minutes."""

    topic: str
    position: int
    """Kafka's offset up to which the log was read."""
    keys: OrderedDict[bytes, Known] = field(default_factory=OrderedDict)


class Keys:
    """The keys of the topics that this worker has appended to with keys. ``clock`` gives seconds since 1970."""

    def __init__(self, log: Log, clock: Callable[[], float], most: int = MAX_KEYS) -> None:
        self._log = log
        self._clock = clock
        self._most = most
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._held = 0
        """How many keys all of them have."""

    async def catch_up(self, topic: Topic) -> None:
        """Read the topic's keys up to its head. Raises :class:`OverloadedError` where there are too many."""
        window = await self._window(topic)
        while True:
            fetched = await self._log.read(topic, window.position)
            records, end = fetched.stored(window.position)
            held = len(window.keys)
            for record in records:
                _take(window, record)
            self._forget_expired(window)
            self._held += len(window.keys) - held
            window.position = max(end, window.position)
            self._make_room(window)
            if window.position >= fetched.head or not fetched.blob:
                return

    def find(self, topic: Topic, record: Record) -> Known | None:
        """Return what was stored first under the record's key."""
        window = self._windows.get(topic.name)
        known = None if window is None else window.keys.get(_name(record.scoped_key))
        return None if known is None or known.time < self._oldest() else known

    def position(self, topic: Topic) -> int:
        """Return Kafka's offset up to which the topic's keys are known."""
        return self._windows[topic.name].position

    async def _window(self, topic: Topic) -> _Window:
        window = self._windows.get(topic.name)
        if window is None or window.topic != topic.lineage or window.position > topic.head:
            head = (await self._log.place(topic)).head
            position, _ = await self._log.since(topic, topic.start, head, self._oldest() - _SKEW_SECONDS * 1000)
            self._drop(topic.name)
            window = self._windows[topic.name] = _Window(topic.lineage, position)
        self._windows.move_to_end(topic.name)
        return window

    def _oldest(self) -> int:
        return int((self._clock() - KEY_LIFETIME) * 1000)

    def _forget_expired(self, window: _Window) -> None:
        oldest = self._oldest()
        while window.keys and next(iter(window.keys.values())).time < oldest:
            window.keys.popitem(last=False)

    def _make_room(self, window: _Window) -> None:
        """Forget the topics that were not used for longest where there are too many keys."""
        while self._held > self._most:
            name, least = next(iter(self._windows.items()))
            if least is window:
                msg = f"a channel has more than {self._most} idempotency keys of the last ten minutes: publish without"
                raise OverloadedError(msg)
            self._drop(name)

    def _drop(self, name: str) -> None:
        window = self._windows.pop(name, None)
        self._held -= 0 if window is None else len(window.keys)


async def search(log: Log, topic: Topic, begin: int, name: str, deadline: float) -> int | None:
    """Return Kafka's offset of the batch with this name, at ``begin`` or later; None if the log has none."""
    while time.monotonic() < deadline:
        fetched = await log.read(topic, begin)
        records, end = fetched.stored(begin)
        for record in records:
            if header(record, BATCH) == name:
                return record.offset
        if end >= fetched.head or end == begin:
            return None
        begin = end
    return None


def digest(data: bytes) -> bytes:
    """Return a hash that tells the data of two messages apart."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _take(window: _Window, record: Stored) -> None:
    key = header(record, KEY)
    if key is None or record.value is None:
        return
    name = _name(key)
    known = window.keys.get(name)
    if known is None or known.time < record.time - KEY_LIFETIME * 1000:
        window.keys.pop(name, None)
        window.keys[name] = Known(record.offset + 1, record.time, digest(record.value))


def _name(scoped_key: str) -> bytes:
    return hashlib.blake2b(scoped_key.encode(), digest_size=16).digest()
