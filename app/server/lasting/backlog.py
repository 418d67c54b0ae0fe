"""A queue of work that would take too long for one turn of the event loop.

However many connections have such work, one turn does a few milliseconds of it: nothing else waits longer than that.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar


class Backlog:
    """The queue of one event loop."""

    turn_seconds: ClassVar[float] = 0.004
    """Seconds after which a turn begins no other call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._is_scheduled = False

    def join(self, call: Callable[[], object]) -> None:
        """Call ``call`` once, in a later turn of the loop that has room for it."""
        self._waiting.append(call)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        until = time.perf_counter() + self.turn_seconds
        try:
            for _ in range(len(self._waiting)):  # calls that join meanwhile wait for another turn
                self._waiting.popleft()()
                if time.perf_counter() > until:
                    break
        finally:
            self._schedule()
