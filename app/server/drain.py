"""The drain: before a stop, connections are closed one by one, so that they do not all come back at once."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TypeVar

from app.server.lasting.link_context import LinkContext
from app.server.lasting.sweep import Swept

STEP = 0.05
"""Seconds between two looks at which connections are due."""


class Stoppable(Protocol):
    """A member of uvicorn's set of connections."""

    def shutdown(self) -> None:
        """Begin to end, because the server stops; harmless if it has begun already."""


_S = TypeVar("_S", bound=Stoppable)


async def spread(
    told: Collection[_S],
    connections: Collection[object],
    seconds: Callable[[], float],
    step: Callable[[], Awaitable[float]],
) -> None:
    """Shut ``told`` down in random order, evenly over ``seconds()``: the first at once, the last before the end.

    A connection that has left ``connections`` is skipped; the function returns when none is left. ``step`` waits a
    moment and returns the seconds since the beginning. ``seconds`` may return less later.
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


class ServerDrain:
    """The :class:`~app.core.ports.Drain` of the application."""

    def __init__(self, context: LinkContext) -> None:
        self._context = context
        self.has_begun = False

    def lasting(self, end: Callable[[], object]) -> AbstractContextManager[object]:
        """Return the context of a response that lasts until the drain calls ``end``."""
        if self._context.is_over:
            self._context.loop.call_soon(end)
        return _Lasting(self._context, end)


class _Lasting(Swept):
    """A response that lasts and was not handed over, as one of the server's connections."""

    __slots__ = ("_born", "_context", "_end")

    def __init__(self, context: LinkContext, end: Callable[[], object]) -> None:
        self._context = context
        self._end = end
        self._born = context.sweep.tick

    def shutdown(self) -> None:
        """End it because the server stops."""
        self._end()

    def look(self, tick: int) -> None:
        """End it when it is old."""
        if self._context.limits.is_due(tick - self._born):
            self._end()

    def __enter__(self) -> None:
        self._context.connections.add(self)
        self._context.sweep.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.connections.discard(self)
