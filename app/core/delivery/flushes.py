"""The flushes of one turn of the event loop: one call of the loop for all channels that have news."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Flushes:
    """Calls each channel's flush once, in the next turn of the loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def join(self, flush: Callable[[], None]) -> None:
        """Call ``flush`` in the next turn."""
        self._waiting.append(flush)
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        waiting = self._waiting
        try:
            for _ in range(len(waiting)):  # those that join meanwhile have a turn of their own
                waiting.popleft()()
        finally:
            if waiting and not self._is_scheduled:  # one of them has raised: the others are still to come
                self._schedule()
