"""What a worker asks of its database while nothing is published."""

import os
import time

import asyncpg
import pytest

from app.bus.postgres.append import store
from app.bus.postgres.listen import listener
from tests.support.postgres import PostgresServer
from tests.support.readers import until, worker

LOOK, PROBE = b"AS waiting", b"AS drained"
"""What is in each statement of the kind, once, and in no other."""

TICK, PROVED = 0.05, 0.25


async def test_a_worker_at_rest_hears_heartbeats_instead_of_asking(
    postgres: PostgresServer, url: str, database: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker that hears its heartbeats looks at the heads half as often, and probes a commit now and then."""
    monkeypatch.setattr(listener, "_HEARTBEAT_SECONDS", TICK / 5)
    monkeypatch.setattr(listener, "_POLL_SECONDS", TICK)
    monkeypatch.setattr(store, "_PROVED_SECONDS", PROVED)
    await sql.execute(f"ALTER DATABASE {database} SET log_statement = 'all'")

    async with worker(url):
        with postgres.log.open("rb") as log:
            before, began = log.seek(0, os.SEEK_END), time.monotonic()

            def logged(statement: bytes) -> int:
                log.seek(before)
                return log.read().count(statement)

            await until(lambda: logged(LOOK) >= 12, "twelve looks")
            took = time.monotonic() - began
            looks, probes = logged(LOOK), logged(PROBE)
    assert looks <= took / TICK / 2 + 2
    assert probes <= took / PROVED + 2
