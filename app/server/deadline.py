"""A time limit that keeps moving, watched by one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls ``expire`` when the time that was set has passed.

    The timer fires then or earlier: a time that moves away does not touch it.
    """

    __slots__ = ("_at", "_expire", "_fires_at", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0  # loop time; valid while there is a timer
        self._at = 0.0

    def set(self, at: float) -> None:
        """Expire at this loop time, and not at the one that was set before."""
        self._at = at
        if self._timer is not None and self._fires_at > at:
            self.stop()
        if self._timer is None:
            self._fires_at = at
            self._timer = self._loop.call_at(at, self._fire)

    def stop(self) -> None:
        """Expire no more, until it is set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if self._at > self._loop.time():
            self.set(self._at)
        else:
            self._expire()
