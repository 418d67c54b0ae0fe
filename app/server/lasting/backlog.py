"""Work that peers have sent more of than one turn of the event loop has room for.

However many connections have such work, one turn does a few milliseconds of it, so that everybody else waits no longer.
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
    """How long one turn goes on; what it has begun it finishes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._is_scheduled = False

    def join(self, call: Callable[[], object]) -> None:
        """Call it once, in a later turn of the loop that has room for it."""
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
            for _ in range(len(self._waiting)):  # what joins meanwhile waits for another turn
                self._waiting.popleft()()
                if time.perf_counter() > until:
                    break
        finally:
            self._schedule()
