"""Retention: deletes what no history shows any more. Redis forgets by itself what nobody has written to for long.

The worker that has stored something in a channel trims it some seconds later. So no channel has to be searched for, and
a channel that left the file is deleted when the time of its history, or of its position, is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from app.bus.redis.streams.commit import LEAST_SECONDS
from app.bus.redis.streams.log_reads import LogReads
from app.core.errors import UnavailableError

_EVERY_SECONDS = 10.0
_AT_ONCE = 100
_KEEP_SECONDS = 600.0
"""How often the heads of what is followed are kept from being forgotten."""

_log = structlog.get_logger(__name__)


class Trimmer:
    """Trims the channels that were :meth:`noted`."""

    def __init__(self, reads: LogReads, followed: Callable[[], Sequence[str]]) -> None:
        self._reads = reads
        self._followed = followed
        self._noted: dict[str, None] = {}

    def note(self, channels: Iterable[str]) -> None:
        """Learn which channels have got messages."""
        self._noted.update(dict.fromkeys(channels))

    async def run(self) -> None:
        """Trim again and again; never returns."""
        kept = time.monotonic()
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.trim()
                if time.monotonic() - kept > _KEEP_SECONDS:
                    kept = time.monotonic()
                    await self._reads.keep(self._followed())
            except UnavailableError:
                pass  # the way of reads has told why
            except Exception:  # noqa: BLE001 — a bug fails one round, and is logged each time
                _log.exception("retention_failed")

    async def trim(self, grace: int = LEAST_SECONDS) -> None:
        """Trim each channel that was noted; nothing of the last ``grace`` seconds is deleted."""
        noted, self._noted = list(self._noted), {}
        try:
            while noted:
                self.note(await self._reads.trim(noted[-_AT_ONCE:], grace))
                del noted[-_AT_ONCE:]
        finally:
            self.note(noted)
