"""The last outcomes of commits, reads, looks at the heads and the session that hears. They decide readiness.

Nothing else decides: a server that lets us connect and then refuses each commit is not well, and one whose commits
work is well. Each way that messages go keeps its last outcome. After a failure a way is well again only when it has
worked for :data:`SETTLE_SECONDS`, so that readiness does not flicker between failures.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Way = Literal["commit", "listen", "poll", "move", "read"]

LATE_SECONDS = 2.0
"""Whatever has been under way for longer is late."""

DOUBT_SECONDS = 1.0
"""A broken connection has this long to be made again before its way counts as failed."""

SETTLE_SECONDS = 3.0
"""A way counts as failed for this long after its last failure, even if it has worked since."""

FORGET_SECONDS = 6.0
"""A look, a move or a read that failed counts for this long if no other follows. Commits and sessions always follow."""

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Wording:
    """How readiness names what an engine does."""

    ways: Mapping[Way, str]
    """What is under way, by its way. Of several that fail, readiness names the first in this order."""
    waits: str
    """What follows the number of seconds waited, such as ``s for the database``."""
    late: str
    """What shows why something waits."""


@dataclass(slots=True)
class _Status:
    """The last outcomes of one way."""

    name: str
    wording: Wording
    lasting: bool
    """Whether its failure counts until it has worked."""
    under_way: list[float] = field(default_factory=list)
    """When each one under way began."""
    failed: float = _NEVER
    worked: float = _NEVER
    believed: bool = False
    """Whether the failure counts at once."""
    reason: str = ""
    hint: str = ""
    """What is known of why the one under way has not worked yet."""

    def wrong(self, now: float) -> str | None:
        failing = self.failed > self.worked
        waited = now - self.under_way[0] if self.under_way else 0.0
        if waited > LATE_SECONDS:
            why = self.hint or self.wording.late
            return f"{self.name} has waited {waited:.0f} {self.wording.waits}: {why}"
        if failing and not self.lasting and now - self.failed > FORGET_SECONDS:
            return None
        if failing and (self.believed or now - self.failed > DOUBT_SECONDS):
            self.believed = True
            return self.reason
        return self.reason if self.believed and now - self.failed < SETTLE_SECONDS else None


class Outcomes:
    """Remembers the last outcome of each way of ``wording``, which has "listen".

    ``first`` says why nothing works before the first session.
    """

    def __init__(self, first: str, wording: Wording) -> None:
        self._statuses: dict[Way, _Status] = {
            way: _Status(name, wording, lasting=way in ("commit", "listen")) for way, name in wording.ways.items()
        }
        self.waits(first)

    def waits(self, reason: str) -> None:
        """Say why no session hears yet, without calling it a failure. It is well as soon as one does."""
        status = self._statuses["listen"]
        status.reason, status.believed, status.worked = reason, True, _NEVER
        status.failed = time.monotonic() - SETTLE_SECONDS

    def failed(self, way: Way, reason: str, *, certain: bool = True) -> None:
        """Learn that something failed. Unless it is ``certain``, only a connection may have broken."""
        status, now = self._statuses[way], time.monotonic()
        again = now - status.failed < FORGET_SECONDS
        status.believed = certain or again or (status.believed and status.failed > status.worked)
        status.failed, status.reason = now, reason

    def worked(self, way: Way) -> None:
        """Learn that it works."""
        status = self._statuses[way]
        status.worked = time.monotonic()
        if way == "listen":  # a session that hears proves that nothing is wrong with it
            status.failed = _NEVER

    @contextlib.contextmanager
    def under_way(self, way: Way) -> Iterator[None]:
        """Time what goes on inside."""
        status, began = self._statuses[way], time.monotonic()
        if not status.under_way:
            status.hint = ""
        status.under_way.append(began)
        try:
            yield
        finally:
            status.under_way.remove(began)

    def hint(self, way: Way, reason: str) -> None:
        """Learn why an attempt failed, while another follows."""
        self._statuses[way].hint = reason

    def hinted(self, way: Way) -> str:
        """Return what is known of why the last one under way has not worked."""
        return self._statuses[way].hint

    def slow(self) -> list[Way]:
        """Return the ways that have been under way for half the time after which they are late."""
        before = time.monotonic() - LATE_SECONDS / 2
        return [way for way, status in self._statuses.items() if status.under_way and status.under_way[0] < before]

    def wrong(self) -> str | None:
        """Say in one line what is wrong now; None while all is well."""
        now = time.monotonic()
        return next((reason for status in self._statuses.values() if (reason := status.wrong(now))), None)

    def listens(self) -> bool:
        """Whether there is a session that hears."""
        status = self._statuses["listen"]
        return status.worked > status.failed
