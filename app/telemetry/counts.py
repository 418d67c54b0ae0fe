"""Counts each channel's subscriptions in every worker, so that any worker can tell the sum.

Each worker writes its counts to its own file beside its metrics when they change. The master removes the file when the
worker has ended, however it ended.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from app.telemetry.metrics import DIRECTORY

Count = tuple[int, int | None]
"""Number of subscriptions, and the newest offset; None if it is not known."""

EVERY = 0.25
"""Seconds between two checks for changed counts."""

_PREFIX, _SUFFIX = "counts-", ".json"


class Counts:
    """The counts of this worker and of the others; without a directory there are no others."""

    def __init__(self, directory: str | None = None) -> None:
        directory = directory or os.environ.get(DIRECTORY)
        self._directory = Path(directory) if directory else None
        self._own: dict[str, Count] = {}

    def tell(self, own: dict[str, Count]) -> None:
        """Publish this worker's counts, by declared name, to the other workers."""
        if own == self._own:
            return
        self._own = own
        if self._directory is not None:
            file = _file(self._directory, os.getpid())
            new = file.with_suffix(".new")
            new.write_bytes(orjson.dumps(own))
            new.replace(file)  # so nobody reads half a file

    def of_all(self) -> Mapping[str, Count]:
        """Return the counts of all workers. Reads a file for each worker: call it in a thread."""
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
        """Publish what ``count`` returns again and again; never returns."""
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
