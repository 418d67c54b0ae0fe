"""Retention: deletes what no history shows any more, in the background and by one worker at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import asyncpg
import structlog

from app.bus.backend import Retention
from app.bus.clock import Clock
from app.bus.postgres import sql
from app.bus.postgres.sessions.faults import explain
from app.bus.postgres.sessions.session import LOST
from app.bus.postgres.sessions.work_connection import WorkConnection
from app.core.errors import UnavailableError

_EVERY_SECONDS = 10.0
_PAGE_CHANNELS = 100
_BATCH_ROWS = 500
_REST, _LONGEST_REST = 20, 1.0
"""After a page of channels that had nothing to delete, the rest is this many times as long as the page took, at most a
second.

There may be millions of names that nobody uses. So they cost a twentieth of a session at most, and no commit waits for
more than one page.
"""

_log = structlog.get_logger(__name__)


async def run(connection: WorkConnection, retention: Retention) -> None:
    """Trim the log again and again; never returns."""
    clock, said = Clock(), ""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        try:
            async with connection.session() as session:
                now = await session.fetchval(sql.query("now"))
            if clock.believes(now / 1000):
                await trim(connection, retention)
            said = ""
        except (UnavailableError, asyncpg.PostgresError, *LOST) as error:
            reason = explain(error)
            if reason != said:  # once, until a round succeeds
                _log.warning("retention_failed", reason=reason)
            said = reason
        except Exception:  # noqa: BLE001 — a bug fails one round, and is logged each time
            _log.exception("retention_failed")


async def trim(
    connection: WorkConnection, retention: Retention, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> int:
    """Trim every channel once; return how many rows were deleted. It ``sleep``s after what had nothing to delete."""
    deleted = 0
    async with contextlib.aclosing(_pages(connection)) as pages:
        async for page in pages:
            began, before = time.monotonic(), deleted
            histories = [retention(channel) for channel in page]
            sizes, ttls = [h.size for h in histories], [h.ttl * 1000 for h in histories]
            while True:
                async with connection.session() as session:
                    gone = await session.fetchval(sql.query("trim"), page, sizes, ttls, _BATCH_ROWS)
                deleted += gone
                if gone < _BATCH_ROWS:
                    break
            if deleted == before:
                await sleep(min(_REST * (time.monotonic() - began), _LONGEST_REST))
    return deleted


async def _pages(connection: WorkConnection) -> AsyncGenerator[list[str]]:
    last = ""
    while True:
        async with connection.session() as session:
            rows = await session.fetch(sql.query("channels"), last, _PAGE_CHANNELS)
        if rows:
            yield [row["channel"] for row in rows]
            last = rows[-1]["channel"]
        if len(rows) < _PAGE_CHANNELS:
            return
