"""Heartbeats of one listening session: which were sent, which were heard, and what that proves."""

from __future__ import annotations

import secrets
import time

_DEAF_SECONDS = 3.0
"""LISTEN hears nothing if a heartbeat that was sent has not been heard for this long."""


class Heartbeats:
    """Counts heartbeats. Each bears a token that nobody can know before it is sent, so nobody can forge one."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        """Tokens of the heartbeats that were not heard yet, and their numbers."""
        self._sent = 0
        self._heard = 0
        self._sent_at = 0.0
        self._unheard_since = time.monotonic()
        """When the first heartbeat was sent that was not heard; valid while one is not heard."""
        self._vouched = 0
        """The heartbeat that :meth:`vouch` saw last; a number not sent yet where a notification was dropped."""

    @property
    def are_heard(self) -> bool:
        """Whether one was ever heard."""
        return self._heard > 0

    def next(self) -> str:
        """Return the token of the next heartbeat, which is about to be sent."""
        token = secrets.token_hex(8)
        self._tokens[token] = self._sent + 1
        self._sent_at = time.monotonic()
        return token

    def not_sent(self, token: str) -> None:
        """Learn that a heartbeat could not be sent."""
        self._tokens.pop(token, None)

    def sent(self) -> None:
        """Learn that the last one was sent. It may have been heard before that is known."""
        if self._heard >= self._sent:
            self._unheard_since = time.monotonic()
        self._sent += 1

    def heard(self, token: str) -> bool:
        """Learn that a token was heard; return whether it is that of one of our heartbeats."""
        number = self._tokens.pop(token, None)
        if number is None:
            return False
        self._heard = max(self._heard, number)
        return True

    def latency(self) -> float | None:
        """Return for how many seconds the newest one was on its way until now; None if it was not heard."""
        return time.monotonic() - self._sent_at if self._heard >= self._sent else None

    def is_deaf(self) -> bool:
        """Whether one has not been heard for too long."""
        return self._heard < self._sent and time.monotonic() - self._unheard_since > _DEAF_SECONDS

    def dropped(self) -> None:
        """Learn that a notification was dropped unread, which the next heartbeat cannot vouch for."""
        self._vouched = self._sent + 1

    def vouch(self) -> bool:
        """Whether one was heard since the last call: notifications come in order, so none before it was missed."""
        vouches = self._heard > self._vouched
        self._vouched = self._heard
        return vouches
