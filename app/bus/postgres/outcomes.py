"""What commits, drains, reads and the listening session came to: by this the backend is well or not.

Nothing else decides: a database that lets us connect and then refuses each commit is not well, and one whose commits
work is. Each way that messages go has its last outcome. A way that failed is well again when it has worked since; to
see it fail again a moment later, nobody needs to be told that it is well, so it must have worked for
:data:`SETTLE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Way = Literal["commit", "listen", "poll", "drain", "read"]

LATE_SECONDS = 2.0
"""What is under way for longer is late."""

DOUBT_SECONDS = 1.0
"""A connection that broke may be made again for so long, before the way counts as failed."""

SETTLE_SECONDS = 3.0
"""So long after its last failure a way counts as failed, though it has worked since."""

FORGET_SECONDS = 6.0
"""A look, a drain or a read that failed counts for so long, when no other came. Commits and sessions always come."""

_NAMES: dict[Way, str] = {
    "commit": "a commit",
    "listen": "LISTEN",
    "poll": "a look at the heads",
    "drain": "a drain of the outbox",
    "read": "a read",
}
"""What is under way; the ways in the order in which one is named."""
_NEVER = float("-inf")


@dataclass(slots=True)
class _Record:
    """What one way came to."""

    name: str
    lasting: bool
    """Whether its failure counts until it has worked."""
    under_way: list[float] = field(default_factory=list)
    """When each began that is under way."""
    failed: float = _NEVER
    worked: float = _NEVER
    believed: bool = False
    """Whether the failure counts at once."""
    reason: str = ""
    hint: str = ""
    """What is known of why what is under way has not worked yet."""

    def wrong(self, now: float) -> str | None:
        failing = self.failed > self.worked
        waited = now - self.under_way[0] if self.under_way else 0.0
        if waited > LATE_SECONDS:
            why = self.hint or "pg_stat_activity shows what holds it up"
            return f"{self.name} has waited {waited:.0f} s for the database: {why}"
        if failing and not self.lasting and now - self.failed > FORGET_SECONDS:
            return None
        if failing and (self.believed or now - self.failed > DOUBT_SECONDS):
            self.believed = True
            return self.reason
        return self.reason if self.believed and now - self.failed < SETTLE_SECONDS else None


class Outcomes:
    """Remembers the last outcomes; ``first`` is why nothing works before the first session."""

    def __init__(self, first: str) -> None:
        self._records: dict[Way, _Record] = {
            way: _Record(name, lasting=way in ("commit", "listen")) for way, name in _NAMES.items()
        }
        self.waits(first)

    def waits(self, reason: str) -> None:
        """Say why there is no session that hears, before that is a failure. It is well as soon as there is one."""
        record = self._records["listen"]
        record.reason, record.believed, record.worked = reason, True, _NEVER
        record.failed = time.monotonic() - SETTLE_SECONDS

    def failed(self, way: Way, reason: str, *, certain: bool = True) -> None:
        """Learn that something failed. It may be a broken connection alone, where it is not ``certain``."""
        record, now = self._records[way], time.monotonic()
        again = now - record.failed < FORGET_SECONDS
        record.believed = certain or again or (record.believed and record.failed > record.worked)
        record.failed, record.reason = now, reason

    def worked(self, way: Way) -> None:
        """Learn that it works."""
        record = self._records[way]
        record.worked = time.monotonic()
        if way == "listen":  # a session that hears is the proof of all that can be wrong with one
            record.failed = _NEVER

    @contextlib.contextmanager
    def under_way(self, way: Way) -> Iterator[None]:
        """Time what goes on inside."""
        record, began = self._records[way], time.monotonic()
        if not record.under_way:
            record.hint = ""
        record.under_way.append(began)
        try:
            yield
        finally:
            record.under_way.remove(began)

    def hint(self, way: Way, reason: str) -> None:
        """Learn why an attempt did not work, of something that goes on."""
        self._records[way].hint = reason

    def hinted(self, way: Way) -> str:
        """Return what is known of why the last one that was under way has not worked."""
        return self._records[way].hint

    def slow(self) -> list[Way]:
        """Return what has been under way for half as long as would be late."""
        before = time.monotonic() - LATE_SECONDS / 2
        return [way for way, record in self._records.items() if record.under_way and record.under_way[0] < before]

    def wrong(self) -> str | None:
        """Say in one line what is wrong now; None while all is well."""
        now = time.monotonic()
        return next((reason for record in self._records.values() if (reason := record.wrong(now))), None)

    def listens(self) -> bool:
        """Whether there is a session that hears."""
        record = self._records["listen"]
        return record.worked > record.failed
