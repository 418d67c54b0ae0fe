"""A standby of a test's PostgreSQL: it streams, it may fall behind, and it is promoted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.backups import wait_writable
from tests.support.postgres import SECONDS, PostgresServer


class Standby(PostgresServer):
    """A server of its own that begins as a copy of ``primary`` and streams from it until it is promoted.

    ``moved`` says where the folder of each of the primary's tablespaces is here; ``settings`` are added to its own.
    """

    def __init__(
        self,
        primary: PostgresServer,
        moved: Mapping[Path, Path] | None = None,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(primary.binaries, settings={**primary.settings, **(settings or {})})
        self._primary = primary
        self._moved = moved or {}

    def _make_data(self) -> None:
        mapping = [f"--tablespace-mapping={there}={here}" for there, here in self._moved.items()]
        options = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", *mapping]
        self.run("pg_basebackup", f"--pgdata={self.data}", *options, f"--dbname={self._primary.url()}")

    def catch_up(self) -> None:
        """Return when it has all that its primary has now."""
        [(target,)] = asyncio.run(self._primary.execute("SELECT pg_current_wal_flush_lsn()::text"))
        self._wait(f"SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn")

    def fall_behind(self) -> None:
        """Take no more from the primary: what it commits from now on is not here."""
        asyncio.run(self.execute("ALTER SYSTEM SET primary_conninfo = ''"))
        asyncio.run(self.execute("SELECT pg_reload_conf()"))
        self._wait("SELECT count(*) = 0 FROM pg_stat_wal_receiver")

    def promote(self) -> None:
        """Become a primary, on a timeline of its own, with what is here."""
        asyncio.run(self.execute("SELECT pg_promote()"))
        wait_writable(self)

    def _wait(self, question: str) -> None:
        deadline = time.monotonic() + SECONDS
        while asyncio.run(self.execute(question)) != [(True,)]:
            assert time.monotonic() < deadline, f"{self!r}: not {question}"
            time.sleep(0.01)
