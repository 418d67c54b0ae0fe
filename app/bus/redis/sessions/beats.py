"""Heartbeats over one connection: which were sent, which were heard, and what that proves."""

from __future__ import annotations

import secrets
import time

BEAT_SECONDS = 1.5
"""The pause between two beats."""

DEAF_SECONDS = 3.0
"""A connection hears nothing if a beat that was sent has not been heard for this long."""


class Beats:
    """Counts the beats of one connection. Each bears a token that nobody can know before it is sent."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        """Where they are sent and heard."""
        self._sent: dict[str, float] = {}
        """When those were sent that have not been heard yet, by their tokens."""

    def next(self) -> str:
        """Return the token of the next beat, which is about to be sent."""
        token = secrets.token_hex(8)
        self._sent[token] = time.monotonic()
        return token

    def not_sent(self, token: str) -> None:
        """Learn that a beat could not be sent."""
        self._sent.pop(token, None)

    def heard(self, token: str) -> float | None:
        """Learn that a token was heard; return for how many seconds it was on its way, None if it is not of ours."""
        sent = self._sent.pop(token, None)
        return None if sent is None else time.monotonic() - sent

    def is_deaf(self) -> bool:
        """Whether one has not been heard for too long."""
        oldest = next(iter(self._sent.values()), None)
        return oldest is not None and time.monotonic() - oldest > DEAF_SECONDS
