"""The tokens that were taken back, in memory: by subject and by id, in the order in which they were."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Any, TypeVar

import structlog

from app.access.entries import Revocation

MAX_ENTRIES = 1_000_000
"""The most subjects and ids together, as many as the log keeps. Beyond them the oldest goes: some 300 bytes each."""

SLACK_SECONDS = 3600
"""How much longer than the lifetime of a token its revocation is kept, since clocks differ."""

_DROPPED_AT_ONCE = 1000

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class Revoked:
    """Remembers what was taken back for as long as such tokens live; ``lifetime`` returns how long, in seconds.

    ``clock`` returns seconds since the Unix epoch.
    """

    def __init__(
        self, lifetime: Callable[[], float], *, clock: Callable[[], float] = time.time, most: int = MAX_ENTRIES
    ) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._most = most
        self._subjects: dict[str, complex] = {}
        """By subject: as the real part before when the tokens were issued, as the imaginary part since when they are
        refused. That is 32 bytes, where a tuple of two floats takes 128."""
        self._tokens: dict[str, float] = {}
        """By id: since when the token is refused."""
        self._gone = 0
        """How many were forgotten since the tables were made."""

    def __len__(self) -> int:
        return len(self._subjects) + len(self._tokens)

    def has(self, sub: str | None, jti: str | None, issued: float | None) -> bool:
        """Whether a token was taken back. One that does not say when it was ``issued`` counts as issued before."""
        known = self._subjects.get(sub) if sub is not None else None
        if known is not None and (
            issued < known.real if issued is not None else self._clock() < known.imag + self._lifetime()
        ):
            return True
        return jti is not None and jti in self._tokens

    def add(self, revocation: Revocation, since: float) -> bool:
        """Refuse tokens ``since`` a time; return whether any of them was not refused before."""
        if max(since, revocation.before) + self._lifetime() + SLACK_SECONDS < self._clock():
            return False
        if revocation.jti is not None:
            is_new = revocation.jti not in self._tokens
            self._tokens.setdefault(revocation.jti, since)
        else:
            is_new = self._add_subject(str(revocation.sub), revocation.before, since)
        if len(self) > self._most:
            self._drop_oldest()
        return is_new

    def forget_expired(self) -> bool:
        """Forget some of what no token that lives can have; return whether there may be more."""
        too_old = self._clock() - self._lifetime() - SLACK_SECONDS
        gone = _drop(self._subjects, lambda known: max(known.real, known.imag) < too_old)
        gone += _drop(self._tokens, lambda since: since < too_old)
        self._gone += gone
        if self._gone > len(self):  # a table that has lost entries is no smaller until it is made anew
            self._subjects, self._tokens, self._gone = dict(self._subjects), dict(self._tokens), 0
        return gone > 0

    def _add_subject(self, sub: str, before: float, since: float) -> bool:
        known = self._subjects.pop(sub, None)
        if known is None:
            self._subjects[sub] = complex(before, since)
            return True
        self._subjects[sub] = complex(max(before, known.real), max(since, known.imag))
        return before > known.real or since > known.imag

    def _drop_oldest(self) -> None:
        """Make room. The larger of the two kinds loses some."""
        larger: dict[str, Any] = max(self._subjects, self._tokens, key=len)
        dropped = _drop(larger, lambda _: True)
        _log.error("revocations_dropped", dropped=dropped, detail=f"more than {self._most} were taken back at a time")


def _drop(known: dict[str, _T], is_old: Callable[[_T], bool]) -> int:
    """Drop the oldest, up to the first that is not old, and not all in one turn of the event loop; return how many."""
    oldest = list(takewhile(lambda item: is_old(item[1]), islice(known.items(), _DROPPED_AT_ONCE)))
    for name, _ in oldest:
        del known[name]
    return len(oldest)
