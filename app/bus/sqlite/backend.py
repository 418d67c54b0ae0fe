"""The SQLite backend put together: one file, two threads, and a socket by which workers wake each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from app.bus.backend import Retention
from app.bus.log_backend import LogBackend
from app.bus.outcomes import Outcomes
from app.bus.sqlite import retention as trimming
from app.bus.sqlite.file.file_faults import NOT_READY, WORDING
from app.bus.sqlite.log_file import LogFile
from app.bus.sqlite.log_reads import LogReads
from app.bus.sqlite.store import Store
from app.bus.sqlite.watch import Watch
from app.core.message import Record
from app.core.ports import UNMETERED, Meter, Outcome


class SqliteBackend(LogBackend):
    """The log in the file at ``path``."""

    answers_first = True
    _reads: LogReads

    def __init__(self, path: Path, *, retention: Retention, meter: Meter = UNMETERED) -> None:
        self._retention = retention
        self._file = LogFile(path)
        super().__init__("sqlite", str(path), Outcomes("the log's file is not open yet", WORDING), NOT_READY)
        self._reads = LogReads(self._file, self._outcomes)
        self._store = Store(self._file, self._outcomes)
        self._watch = Watch(self._file, self._follower, self._reads, self._outcomes, meter, self._store.probe)
        self._ready = self._watch.ready

    async def connect(self) -> None:
        """Begin to open the file, and return at once: one that cannot be opened is tried again."""
        self._tasks = [
            asyncio.create_task(self._watch.run(), name="sqlite-watch"),
            asyncio.create_task(self._trim(), name="sqlite-retention"),
        ]

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        deadline = await self._reached(deadline)
        return await self._store.store(records, deadline, tell=self._watch.tell, hear=self._watch.hear)

    async def _close(self) -> None:
        self._reads.close()
        await self._file.end()

    async def _trim(self) -> None:
        await self._ready.wait()
        await trimming.run(self._file, self._retention)
