"""What is under way at the database, and for how long: what waits for too long makes readiness say so."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

LATE_SECONDS = 2.0
"""What is under way for longer is late."""

KEEP_SECONDS = 5.0
"""For so long a late one that failed is remembered: what is tried again meanwhile has waited no less."""


class Waiting:
    """Knows since when commits and drains wait. Each kind is under way once at a time."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._failed: dict[str, float] = {}
        """When the last attempt failed, of what waits on in the next one."""

    @contextlib.contextmanager
    def under_way(self, what: str) -> Iterator[None]:
        """Time what goes on inside; if it raises, it is taken to be tried again."""
        now = time.monotonic()
        if now - self._failed.pop(what, float("-inf")) > KEEP_SECONDS:
            self._since[what] = now
        try:
            yield
        except BaseException:
            self._failed[what] = time.monotonic()
            raise
        del self._since[what]

    def late(self) -> str | None:
        """Say what waits for too long, in one line; None while nothing does."""
        now = time.monotonic()
        for what, since in self._since.items():
            waited = self._failed.get(what, now) - since
            if waited > LATE_SECONDS and now - self._failed.get(what, now) < KEEP_SECONDS:
                return f"{what} has waited {waited:.0f} s for the database: pg_stat_activity shows what holds it up"
        return None
