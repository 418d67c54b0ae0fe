"""The SQLite backend put together: one file, two threads, and a socket by which workers wake each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from app.bus.backend import Backend, BackendHealth, Retention
from app.bus.follower import Follower
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.sqlite import retention as trimming
from app.bus.sqlite.file.file_faults import NOT_READY, WORDING
from app.bus.sqlite.log_file import LogFile
from app.bus.sqlite.log_reads import PATIENCE_SECONDS, RETRY_SECONDS, LogReads
from app.bus.sqlite.store import Store
from app.bus.sqlite.watch import Watch
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Message, Page, Position, Record
from app.core.ports import UNMETERED, Meter, Outcome


class SqliteBackend(Backend):
    """The log in the file at ``path``."""

    def __init__(self, path: Path, *, retention: Retention, meter: Meter = UNMETERED) -> None:
        self._retention = retention
        self._file = LogFile(path)
        self._outcomes = Outcomes("the log's file is not open yet", WORDING)
        self._follower = Follower(self._behind)
        self._reads = LogReads(self._file, self._outcomes)
        self._store = Store(self._file, self._outcomes)
        self._watch = Watch(self._file, self._follower, self._reads, self._outcomes, meter, self._store.probe)
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = self._outcomes.wrong() or "open"
        held = f"{len(self._follower)} followed, {self._follower.held} bytes held"
        return f"<SqliteBackend {self._file.path}, {held}: {state}>"

    async def connect(self) -> None:
        """Begin to open the file, and return at once: one that cannot be opened is tried again."""
        self._tasks = [
            asyncio.create_task(self._watch.run(), name="sqlite-watch"),
            asyncio.create_task(self._trim(), name="sqlite-retention"),
        ]

    async def disconnect(self) -> None:
        """Close the file."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._file.end()

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        deadline = time.monotonic() + PATIENCE_SECONDS if deadline is None else deadline
        await self._opened(deadline)
        return await self._store.store(records, deadline, tell=self._watch.tell, hear=self._watch.hear)

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see the contract."""
        return await self._reads.page(channel, after, limit, history)

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        return (await self._reads.place(channel)).head

    async def follow(self, channel: str) -> Position:
        """Begin at the head."""
        return await self._follower.follow(channel, self._reads.place)

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._follower.unfollow(channel)

    async def next_batch(self) -> Batch | EpochChange:
        """Hand out what was heard, or fetched because it was not heard."""
        while True:
            try:
                return await self._follower.next_batch()
            except UnavailableError:
                await asyncio.sleep(RETRY_SECONDS)

    async def health(self) -> BackendHealth:
        """Say whether what is published is stored and heard."""
        wrong = self._outcomes.wrong()
        return BackendHealth(ok=wrong is None, detail=wrong or f"sqlite at {self._file.path}")

    async def _opened(self, deadline: float) -> None:
        """Wait until the file was open once; raise :class:`UnavailableError` at the deadline."""
        if self._watch.ready.is_set():
            return
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._watch.ready.wait()
        except TimeoutError:
            raise UnavailableError(NOT_READY) from UnavailableError(self._outcomes.wrong() or "not open yet")

    async def _behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        return await self._reads.behind(wanted)

    async def _trim(self) -> None:
        await self._watch.ready.wait()
        await trimming.run(self._file, self._retention)
