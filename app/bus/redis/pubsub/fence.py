"""Live messages wait until everything is known that was taken back before them.

What is taken back is in the log of the server's own channels, and live messages come over another connection, so they
could overtake it. Whoever takes something back therefore publishes to the fence's topic before it is told that this is
stored. Redis hands each worker that before all that is published later. Then nothing live is handed out until the
log's head was reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.core.errors import UnavailableError

PATIENCE_SECONDS = 2.0
"""Live messages wait no longer than this: the log may be away while they are not."""


class Fence:
    """``head`` returns the newest offset of what was taken back; ``down`` is called when messages may go on."""

    def __init__(self, topic: str, head: Callable[[], Awaitable[int]], down: Callable[[], None]) -> None:
        self.topic = topic
        self._seen: int | None = None
        """Up to where what was taken back was handed out; None while nobody follows it."""
        self._moved = asyncio.Event()
        self._head = head
        self._down = down
        self._waiting: set[asyncio.Task[None]] = set()
        self._catching_up = 0

    @property
    def is_up(self) -> bool:
        """Whether messages wait."""
        return bool(self._waiting or self._catching_up)

    def move(self, seen: int | None) -> None:
        """Learn up to where what was taken back was handed out; None when nobody follows it any more."""
        self._seen = seen
        self._moved.set()

    def put_up(self) -> None:
        """Let messages wait until what was taken back until now is known."""
        if self._seen is not None:
            task = asyncio.get_running_loop().create_task(self.catch_up())
            self._waiting.add(task)
            task.add_done_callback(self._done)

    async def catch_up(self) -> None:
        """Let messages wait until then; return when it is so, or after :data:`PATIENCE_SECONDS`."""
        self._catching_up += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                head = 0 if self._seen is None else await self._head()
                while self._seen is not None and self._seen < head:
                    self._moved.clear()
                    await self._moved.wait()
        except (TimeoutError, UnavailableError):
            pass  # it has waited for long enough
        finally:
            self._catching_up -= 1
            self._down()

    def close(self) -> None:
        """Wait for nothing more."""
        for task in list(self._waiting):
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        self._down()
