"""What happened in each of the last seconds, in every worker, so that any worker can tell the sum.

Each worker writes every second to its own file beside its metrics, a ring of the last quarter of an hour. The file of a
worker that has ended stays until all of its seconds are old, so the past does not change.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from app.telemetry.directory import DIRECTORY

SECONDS = 900
"""How many seconds are kept."""

BOUNDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2,
    5, 10,
)  # fmt: skip
"""The greatest ages of the deliveries that are counted together, in seconds; the rest is counted after them."""

BUSY_SECONDS = 10
"""How many seconds the busiest names are counted over."""

INTERNAL = "$"
"""How the names of channels begin that the server keeps for itself."""

_SETTLED = 2
"""Seconds after which every worker has written a second."""

_BUSIEST = 100
"""How many names of one second are remembered."""

_SLOT = struct.Struct(f"<{5 + len(BOUNDS) + 1}I")
_MOST = 2**32 - 1
_PREFIX = "activity-"


class Second(NamedTuple):
    """What happened in one second."""

    time: int
    """In seconds since the Unix epoch."""
    published: int
    delivered: int
    gaps: int
    refused: int
    ages: tuple[int, ...]
    """How many live deliveries were of each age: up to each of :data:`BOUNDS`, and beyond."""


class Busiest:
    """The names with the most messages in the last :data:`BUSY_SECONDS`."""

    def __init__(self) -> None:
        self.waiting: Counter[str] = Counter()
        """Messages of the second that has not ended."""
        self.messages: dict[str, int] = {}
        """Messages of each name in all of these seconds together."""
        self._past: deque[dict[str, int]] = deque(maxlen=BUSY_SECONDS)

    def tick(self) -> None:
        """End a second."""
        waiting, self.waiting = self.waiting, Counter()
        self._past.append(dict(waiting.most_common(_BUSIEST)))

        total: Counter[str] = Counter()
        for second in self._past:
            total.update(second)
        self.messages = dict(total.most_common(_BUSIEST))


class Activity:
    """The seconds of this worker and of the others; without a directory there are no others."""

    def __init__(self, directory: str | None = None) -> None:
        directory = directory or os.environ.get(DIRECTORY)
        self._directory = Path(directory) if directory else None
        self._ring = _new_ring(self._directory)
        self.names, self.declared = Busiest(), Busiest()
        """The busiest channels by their full name, and by the name that channels.yaml declares."""
        self._begin()

    def _begin(self) -> None:
        self.delivered = self.gaps = self.refused = 0
        self.ages = [0] * (len(BOUNDS) + 1)

    def tick(self, second: int) -> None:
        """Write down the second that has ended."""
        for name in [name for name in self.names.waiting if name.startswith(INTERNAL)]:
            del self.names.waiting[name]
        counts = (self.names.waiting.total(), self.delivered, self.gaps, self.refused, *self.ages)
        _SLOT.pack_into(self._ring, second % SECONDS * _SLOT.size, second, *(min(count, _MOST) for count in counts))
        self._begin()
        self.names.tick()
        self.declared.tick()

    @property
    def busiest(self) -> tuple[dict[str, int], dict[str, int]]:
        """The messages of the busiest channels in the last seconds, by full and by declared name."""
        return self.names.messages, self.declared.messages

    async def run(self, settle: Callable[[], None]) -> None:
        """Write down second after second, once ``settle`` has counted what waits for it; never returns."""
        second = int(time.time())
        while True:
            now = time.time()
            if now < second:  # the clock was set back
                second = int(now)
            if now < second + 1:  # a timer may end a moment too early
                await asyncio.sleep(second + 1 - now)
                continue
            settle()
            self.tick(second)
            second = int(now)

    def of_all(self, since: int) -> tuple[int, list[Second]]:
        """Return the last second that all workers have written, and what happened in those after ``since`` until then.

        Seconds in which nothing happened are left out. Reads a file for each worker: call it in a thread.
        """
        until = int(time.time()) - _SETTLED
        asked = range(max(since, until - SECONDS + _SETTLED) + 1, until + 1)
        found: dict[int, list[int]] = {}
        for ring in self._rings():
            for second in asked:
                at, *counts = _SLOT.unpack_from(ring, second % SECONDS * _SLOT.size)
                if at == second and any(counts):
                    others = found.get(second)
                    found[second] = counts if others is None else [a + b for a, b in zip(others, counts, strict=True)]
        return until, [_second(second, *found[second]) for second in sorted(found)]

    def _rings(self) -> Iterator[bytes | bytearray | mmap.mmap]:
        if self._directory is None:
            yield self._ring
            return
        for file in self._directory.glob(f"{_PREFIX}*"):
            content = file.read_bytes()
            if len(content) == _SLOT.size * SECONDS:
                yield content


def _second(time: int, published: int, delivered: int, gaps: int, refused: int, *ages: int) -> Second:
    return Second(time, published, delivered, gaps, refused, ages)


def _new_ring(directory: Path | None) -> bytearray | mmap.mmap:
    size = _SLOT.size * SECONDS
    if directory is None:
        return bytearray(size)
    with _file(directory, os.getpid()).open("w+b") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def forget(directory: str) -> None:
    """Remove the files of workers that ended so long ago that all of their seconds are old."""
    oldest = int(time.time()) - SECONDS
    for file in Path(directory).glob(f"{_PREFIX}*"):
        newest = max((second for second, *_ in _SLOT.iter_unpack(file.read_bytes())), default=0)
        if 0 < newest < oldest:  # 0: a worker has just begun, and has counted nothing yet
            file.unlink(missing_ok=True)


def _file(directory: Path, pid: int) -> Path:
    return directory / f"{_PREFIX}{pid}"
