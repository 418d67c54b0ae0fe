"""What callers have open, and when it ends: their token expires, or the application takes their right back."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from app.core.errors import AbideError, DisconnectedError, ExpiredError, UnauthorisedError
from app.core.rights.policy import ANONYMOUS, Identity

_PER_SECOND = 20
"""Sessions that end within one twentieth of a second end together."""

_LONGEST_SLEEP = 10.0
"""Seconds after which the clock is read again: it may have been set."""

_SPARE = 1000

KeyT = TypeVar("KeyT", str, int)


class Session(Protocol):
    """A connection or a subscription that an identity has open."""

    identity: Identity

    def fail(self, error: AbideError) -> None:
        """End it with an error."""


class Sessions:
    """The sessions that may end before their caller wants, by subject and by the time of their end.

    An open session that has neither takes no memory here.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._entered: dict[Session, tuple[str | None, str | None, int | None]] = {}
        """Each with its subject, the id of its token, and its end."""
        self._by_subject: dict[str, set[Session]] = {}
        self._by_token: dict[str, set[Session]] = {}
        self._by_end: dict[int, set[Session]] = {}
        self._ends: list[int] = []
        """A heap of the keys of ``_by_end``, and of some that are no longer there."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entered)

    def enter(self, session: Session) -> None:
        """Watch a session until :meth:`leave`; call again after its identity has changed. It may end at once."""
        if session in self._entered:
            self.leave(session)
        identity = session.identity
        end = None if identity.ends is None else int(identity.ends * _PER_SECOND)
        jti = _jti(identity)
        if identity.subject is None and jti is None and end is None:
            return
        self._entered[session] = identity.subject, jti, end
        if identity.subject is not None:
            self._by_subject.setdefault(identity.subject, set()).add(session)
        if jti is not None:
            self._by_token.setdefault(jti, set()).add(session)
        if end is not None:
            self._enter_end(session, end)

    def leave(self, session: Session) -> None:
        """Forget a session; do nothing if it is not watched."""
        subject, jti, end = self._entered.pop(session, (None, None, None))
        if subject is not None:
            _discard(self._by_subject, subject, session)
        if jti is not None:
            _discard(self._by_token, jti, session)
        if end is not None:
            _discard(self._by_end, end, session)

    def revoke(self, sub: str | None, jti: str | None, before: float) -> None:
        """End the sessions of tokens of a subject, or of one token, that were issued before a time."""
        error = UnauthorisedError("the token sent was taken back")
        for session in list(self._by_subject.get(sub, ()) if sub is not None else ()):
            token = session.identity.token
            if token is None or token.issued is None or token.issued < before:
                self._end(session, error)
        for session in list(self._by_token.get(jti, ()) if jti is not None else ()):
            self._end(session, error)

    def disconnect(self, sub: str) -> None:
        """End the sessions of a subject, which may come back."""
        for session in list(self._by_subject.get(sub, ())):
            self._end(session, DisconnectedError("the application has closed this connection: reconnect"))

    def _enter_end(self, session: Session, end: int) -> None:
        sessions = self._by_end.get(end)
        if sessions is None:
            sessions = self._by_end[end] = set()
            heapq.heappush(self._ends, end)
            if len(self._ends) > 2 * len(self._by_end) + _SPARE:
                self._ends = sorted(self._by_end)
            if self._ends[0] == end:
                self._sleep()
        sessions.add(session)

    def _sleep(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._ends:
            seconds = (self._ends[0] + 1) / _PER_SECOND - self._now()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(max(0.0, seconds), _LONGEST_SLEEP), self._expire)

    def _expire(self) -> None:
        now = self._now() * _PER_SECOND
        while self._ends and self._ends[0] < now:
            for session in self._by_end.pop(heapq.heappop(self._ends), ()):
                has_token = session.identity.token is not None
                what = "the token has expired" if has_token else "the time that the application gave is over"
                self._end(session, ExpiredError(f"{what}: reconnect with a new one"))
        self._sleep()

    def _end(self, session: Session, error: AbideError) -> None:
        self.leave(session)
        session.identity = ANONYMOUS  # what it has sent and is not yet handled has no rights any more
        session.fail(error)


def _jti(identity: Identity) -> str | None:
    return None if identity.token is None else identity.token.jti


def _discard(sessions: dict[KeyT, set[Session]], key: KeyT, session: Session) -> None:
    """Remove a session from the set of its key, and the set with the last one."""
    found = sessions.get(key)
    if found is not None:
        found.discard(session)
        if not found:
            del sessions[key]
