"""Retention: in the background, by one worker at a time, what no history shows any more is deleted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

import asyncpg
import structlog

from app.bus.backend import Retention
from app.bus.postgres.sessions.faults import explain
from app.bus.postgres.sessions.work_connection import LOST, Link
from app.core.errors import UnavailableError

_EVERY_SECONDS = 10.0
_PAGE_CHANNELS = 500
_BATCH_ROWS = 2000

_JUMP_SECONDS = 60.0
"""By more than this no clock is off by itself, and so long another time has to last until it is believed."""

_log = structlog.get_logger(__name__)


class Clock:
    """Tells when the database's clock may be believed: nothing young is to go because it has jumped for a moment."""

    def __init__(self) -> None:
        self._offset: float | None = None
        """Its seconds, less those of our monotonic clock; None before it was seen."""
        self._since = 0.0

    def believes(self, now: float) -> bool:
        """Whether ``now``, in seconds since 1970, goes on from what was seen before, or has lasted.

        What is seen first is compared with the time of this machine.
        """
        offset = now - time.monotonic()
        if self._offset is None and abs(now - time.time()) < _JUMP_SECONDS:
            self._offset, self._since = offset, time.monotonic() - _JUMP_SECONDS
        elif self._offset is None or abs(offset - self._offset) > _JUMP_SECONDS:
            self._offset, self._since = offset, time.monotonic()
        return time.monotonic() - self._since >= _JUMP_SECONDS


async def run(link: Link, retention: Retention) -> None:
    """Trim the log again and again; never returns."""
    clock = Clock()
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        try:
            async with link.connection() as connection:
                now = await connection.fetchval("SELECT abide.now_ms()")
            if clock.believes(now / 1000):
                await trim(link, retention)
        except (UnavailableError, asyncpg.PostgresError, *LOST) as error:
            _log.warning("retention_failed", reason=explain(error))
        except Exception:  # noqa: BLE001 — a bug fails one round, and the next one is heard of, too
            _log.exception("retention_failed")


async def trim(link: Link, retention: Retention) -> int:
    """Trim every channel once; return how many rows were deleted."""
    deleted = 0
    async with contextlib.aclosing(_pages(link)) as pages:
        async for page in pages:
            histories = [retention(channel) for channel in page]
            sizes, ttls = [h.size for h in histories], [h.ttl * 1000 for h in histories]
            while True:
                async with link.connection() as connection:
                    gone = await connection.fetchval(
                        "SELECT abide.trim($1, $2, $3, $4)", page, sizes, ttls, _BATCH_ROWS
                    )
                deleted += gone
                if gone < _BATCH_ROWS:
                    break
    return deleted


async def _pages(link: Link) -> AsyncGenerator[list[str]]:
    last = ""
    while True:
        async with link.connection() as connection:
            rows = await connection.fetch(
                "SELECT channel FROM abide.head WHERE channel > $1 ORDER BY channel LIMIT $2", last, _PAGE_CHANNELS
            )
        if rows:
            yield [row["channel"] for row in rows]
            last = rows[-1]["channel"]
        if len(rows) < _PAGE_CHANNELS:
            return
