"""How long handed-over connections may take for what they owe, in ticks of the sweep."""

from __future__ import annotations

import random
from typing import NamedTuple

from app.server.lasting.sweep import Sweep

_SLOWEST = 16 * 1024
"""Bytes a second: a peer that sends as fast as this has all the time for a message's size."""

_YOUNGEST = 0.8
"""The part of the greatest age at which the first connections end."""


class Timeouts(NamedTuple):
    """The configured time limits of a server, in seconds; None means no limit."""

    ping_interval: float | None
    """Between two pings."""

    ping_timeout: float | None
    """From a ping until the peer must have been heard."""

    handshake: float
    """Until the application has answered a handshake."""

    closing: float
    """From a close until the transport may be cut."""

    @property
    def shortest(self) -> float:
        """The least of them."""
        return min(seconds for seconds in self if seconds is not None)

    @property
    def silence(self) -> float | None:
        """Seconds after which a silent peer is given up; None for never."""
        return self.ping_interval + self.ping_timeout if self.ping_interval and self.ping_timeout else None


class Limits:
    """The timeouts, and the greatest age of a connection, as numbers of ticks."""

    def __init__(self, timeouts: Timeouts, sweep: Sweep) -> None:
        self._sweep = sweep
        self.handshake_late = sweep.at_least(timeouts.handshake)
        self.closing_late = sweep.at_least(timeouts.closing)
        self.ping_at = sweep.at_most(timeouts.ping_interval)
        self.drop_at = self.ping_at + sweep.at_least(timeouts.ping_timeout) - 1
        self.limit_age(None)

    def limit_age(self, seconds: float | None) -> None:
        """End each connection at a random age, from 80 to 100 percent of ``seconds``; None for no limit."""
        at_most, at_least = self._sweep.at_most, self._sweep.at_least
        self._oldest = at_most(seconds)
        self._old = self._oldest if seconds is None else min(self._oldest, at_least(seconds * _YOUNGEST))

    def is_late(self, age: int, size: int, seconds: float) -> bool:
        """Return whether a message that began ``age`` ticks ago and has ``size`` bytes by now takes too long.

        ``seconds`` is the time for a whole message, without the time for its size.
        """
        return age >= self._sweep.at_least(seconds) + self._sweep.at_most(size / _SLOWEST)

    def is_due(self, age: int) -> bool:
        """Return whether a connection that is ``age`` ticks old ends now; asked once a tick.

        The answer is drawn anew at each tick, so that no connection has to hold its last tick: with n
        ticks left, one in n ends, which makes all of them equally likely.
        """
        return age >= self._old and random.random() * (self._oldest - age + 1) < 1  # noqa: S311 — it spreads load
