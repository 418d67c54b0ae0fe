"""SQLite: a file on a small disk, which others lock, fill and replace."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import ClassVar

from anyio.from_thread import BlockingPortal
from anyio.to_thread import run_sync

from tests.support.crowd import Crowd
from tests.support.small_disk import SmallDisk
from tests.support.worlds.fault import Fault
from tests.support.worlds.world import Kinds, World

_LOCK_SECONDS = 10


class SqliteWorld(World):
    """A file, and no network before it."""

    name = "sqlite"
    networked = False
    faults: ClassVar[Kinds] = {"lock": ("",), "full disk": ("",)}
    losses: ClassVar[Kinds] = {"restore": ("",)}

    def __init__(self, stack: ExitStack, portal: BlockingPortal) -> None:
        super().__init__(stack, portal)
        self._disk = stack.enter_context(SmallDisk())
        self._file = self._disk.data / "abide.db"
        self.url = f"sqlite:///{self._file}"

    async def operate(self, fault: Fault, crowd: Crowd) -> None:
        match fault.kind:
            case "lock":
                await self._lock(fault)
            case "full disk":
                await run_sync(self._disk.fill)
                await asyncio.sleep(fault.seconds)
                self._disk.free()
            case _:
                await self._restore(fault, crowd)

    async def _lock(self, fault: Fault) -> None:
        """Hold the lock that commits take, as a person with a shell does."""
        with closing(
            sqlite3.connect(self._file, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        ) as connection:
            await run_sync(lambda: connection.execute("BEGIN IMMEDIATE"))
            await asyncio.sleep(fault.seconds)
            connection.execute("ROLLBACK")

    async def _restore(self, fault: Fault, crowd: Crowd) -> None:
        """Put a copy in the place of the file while the server runs."""
        saved = crowd.ledger.save()
        copy = self._file.with_suffix(".copy")
        await run_sync(self._copy_to, copy)
        await asyncio.sleep(fault.seconds)
        with crowd.rewriting(saved):
            for ending in ("-wal", "-shm"):
                self._file.with_name(self._file.name + ending).unlink(missing_ok=True)
            copy.rename(self._file)

    def _copy_to(self, copy: Path) -> None:
        with closing(sqlite3.connect(self._file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
