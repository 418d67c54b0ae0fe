"""What the channels have in each worker, so that any of them can say what they have in all.

Each worker writes its counts into a file of its own beside its metrics, when they have changed. The master removes the
file when the worker has ended, however it did.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from app.telemetry.metrics import DIRECTORY

Count = tuple[int, int | None]
"""How many subscriptions, and the newest offset, where it is known."""

EVERY = 0.25
"""Seconds between two looks at whether the counts have changed."""

_PREFIX, _SUFFIX = "counts-", ".json"


class Counts:
    """This worker's counts, and those of the others; without a directory there are no others."""

    def __init__(self, directory: str | None = None) -> None:
        directory = directory or os.environ.get(DIRECTORY)
        self._directory = Path(directory) if directory else None
        self._own: dict[str, Count] = {}

    def tell(self, own: dict[str, Count]) -> None:
        """Let the other workers know what this one counts, by declared name."""
        if own == self._own:
            return
        self._own = own
        if self._directory is not None:
            file = _file(self._directory, os.getpid())
            new = file.with_suffix(".new")
            new.write_bytes(orjson.dumps(own))
            new.replace(file)  # nobody reads half of it

    def of_all(self) -> Mapping[str, Count]:
        """Return what all workers count; it reads a file for each, so not on the event loop."""
        if self._directory is None:
            return self._own
        found: dict[str, Count] = {}
        for file in self._directory.glob(f"{_PREFIX}*{_SUFFIX}"):
            for name, (subscribers, head) in _read(file).items():
                others, other_head = found.get(name, (0, None))
                newest = other_head if head is None else max(head, other_head or 0)
                found[name] = (others + subscribers, newest)
        return found

    async def run(self, count: Callable[[], dict[str, Count]]) -> None:
        """Tell again and again what ``count`` returns; never returns."""
        while True:
            self.tell(count())
            await asyncio.sleep(EVERY)


def forget(directory: str, pid: int) -> None:
    """Remove the counts of a worker that has ended."""
    file = _file(Path(directory), pid)
    for left in (file, file.with_suffix(".new")):
        left.unlink(missing_ok=True)


def _file(directory: Path, pid: int) -> Path:
    return directory / f"{_PREFIX}{pid}{_SUFFIX}"


def _read(file: Path) -> dict[str, Count]:
    try:
        content: dict[str, Count] = orjson.loads(file.read_bytes())
    except FileNotFoundError:  # its worker has just ended
        return {}
    return content
