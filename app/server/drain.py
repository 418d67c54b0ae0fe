"""The drain: connections are told to go one by one before a stop, so that they don't all come back at once."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TypeVar

from app.server.lasting.keepalive import Watched
from app.server.lasting.shared import Shared

STEP = 0.05
"""Seconds between two looks at who is due."""


class Stoppable(Protocol):
    """What uvicorn has in its set of connections."""

    def shutdown(self) -> None:
        """Begin to end, because the server stops; harmless when it has begun already."""


_S = TypeVar("_S", bound=Stoppable)


async def spread(
    told: Collection[_S],
    connections: Collection[object],
    seconds: Callable[[], float],
    step: Callable[[], Awaitable[float]],
) -> None:
    """Shut ``told`` down evenly over so many seconds, in random order: the first at once, the last before the end.

    Who has left ``connections`` by itself is skipped, and it ends when nobody is left to be told.
    ``step`` waits a moment and returns the seconds since the beginning; ``seconds`` may become less meanwhile.
    """
    waiting = random.sample(list(told), len(told))
    total, elapsed = len(waiting), 0.0
    while waiting:
        window = seconds()
        due = 1 + int(total * elapsed / window) if elapsed < window else total
        while waiting and total - len(waiting) < due:
            connection = waiting.pop()
            if connection in connections:
                connection.shutdown()
        while waiting and waiting[-1] not in connections:
            waiting.pop()
        if waiting:
            elapsed = await step()


class Drain:
    """What the application is told of the drain: :class:`~app.core.ports.Drain`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.has_begun = False

    def lasting(self, end: Callable[[], object]) -> AbstractContextManager[object]:
        """Return the context of a response that lasts until it is told to ``end``."""
        if self._shared.is_over:
            self._shared.loop.call_soon(end)
        return _Lasting(self._shared, end)


class _Lasting(Watched):
    """A response that lasts, among the connections of the server."""

    __slots__ = ("_born", "_end", "_shared")

    def __init__(self, shared: Shared, end: Callable[[], object]) -> None:
        self._shared = shared
        self._end = end
        self._born = shared.keepalive.tick

    def shutdown(self) -> None:
        """End it because the server stops."""
        self._end()

    def look(self, tick: int) -> None:
        """End it when it is old."""
        if self._shared.is_due(tick - self._born):
            self._end()

    def __enter__(self) -> None:
        self._shared.connections.add(self)
        self._shared.keepalive.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shared.connections.discard(self)
