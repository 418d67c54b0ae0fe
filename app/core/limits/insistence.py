"""When a client has been refused so often that its connection is closed."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_REFUSALS = 100
"""The refusals of a connection without a pause between two of them; one more closes it."""

PAUSE_SECONDS = 10.0
"""What counts as a pause."""


class Refusals:
    """Counts the refusals of one connection by a rate limit."""

    __slots__ = ("_clock", "_count", "_last")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._last = 0.0

    def go_on(self) -> bool:
        """Count one; return whether there are too many since the last pause."""
        before, self._last = self._last, self._clock()
        self._count = 1 if self._last - before > PAUSE_SECONDS else self._count + 1
        return self._count > MOST_REFUSALS
