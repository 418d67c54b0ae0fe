"""What each worker has now: subscriptions, connections and busy channels, so that any worker can tell the sum.

Each worker writes its counts to its own file beside its metrics when they change. The master removes the file when the
worker has ended, however it ended.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson

from app.telemetry.directory import DIRECTORY

Count = tuple[int, int | None]
"""Number of subscriptions, and the newest offset; None if it is not known."""

EVERY = 0.25
"""Seconds between two checks for changed counts."""

_PREFIX, _SUFFIX = "counts-", ".json"


class Counted(NamedTuple):
    """The counts of one worker, or of several together."""

    channels: Mapping[str, Count] = {}
    """By declared name."""
    connections: Mapping[str, int] = {}
    """By kind: ``websocket``, ``sse`` or ``poll``."""
    slow: int = 0
    """Subscriptions whose buffer is full."""
    lag: int = 0
    """Messages by which the slowest of these is behind."""
    names: Mapping[str, int] = {}
    """The busiest channels, by full name, with their messages of the last seconds."""
    declared: Mapping[str, int] = {}
    """The same by declared name, with those of all channels of a family."""
    workers: int = 1


class Counts:
    """The counts of this worker and of the others; without a directory there are no others."""

    def __init__(self, directory: str | None = None) -> None:
        directory = directory or os.environ.get(DIRECTORY)
        self._directory = Path(directory) if directory else None
        self._own: Counted | None = None

    def tell(self, own: Counted) -> None:
        """Publish this worker's counts to the other workers."""
        if own == self._own:
            return
        self._own = own
        if self._directory is not None:
            file = _file(self._directory, os.getpid())
            new = file.with_suffix(".new")
            new.write_bytes(orjson.dumps(own._asdict()))
            new.replace(file)  # so nobody reads half a file

    def of_all(self) -> Counted:
        """Return the counts of all workers together. Reads a file for each worker: call it in a thread."""
        if self._directory is None:
            return self._own or Counted()
        return _together(filter(None, map(_read, self._directory.glob(f"{_PREFIX}*{_SUFFIX}"))))

    async def run(self, count: Callable[[], Counted]) -> None:
        """Publish what ``count`` returns again and again; never returns."""
        while True:
            self.tell(count())
            await asyncio.sleep(EVERY)


def forget(directory: str, pid: int) -> None:
    """Remove the counts of a worker that has ended."""
    file = _file(Path(directory), pid)
    for left in (file, file.with_suffix(".new")):
        left.unlink(missing_ok=True)


def _together(all_counted: Iterable[Counted]) -> Counted:
    channels: dict[str, Count] = {}
    connections, names, declared = Counter[str](), Counter[str](), Counter[str]()
    slow = lag = workers = 0
    for counted in all_counted:
        for name, (subscribers, head) in counted.channels.items():
            others, other_head = channels.get(name, (0, None))
            newest = other_head if head is None else max(head, other_head or 0)
            channels[name] = (others + subscribers, newest)
        connections.update(counted.connections)
        names.update(counted.names)
        declared.update(counted.declared)
        slow, lag, workers = slow + counted.slow, max(lag, counted.lag), workers + counted.workers
    return Counted(channels, connections, slow, lag, names, declared, workers)


def _file(directory: Path, pid: int) -> Path:
    return directory / f"{_PREFIX}{pid}{_SUFFIX}"


def _read(file: Path) -> Counted | None:
    try:
        return Counted(**orjson.loads(file.read_bytes()))
    except FileNotFoundError:  # its worker has just ended
        return None
