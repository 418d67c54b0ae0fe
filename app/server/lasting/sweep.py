"""A periodic sweep over all connections of a worker, instead of a timer for each."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable
from math import ceil
from typing import ClassVar

_logger = logging.getLogger("uvicorn.error")


class Swept:
    """A connection that the sweep looks at. It notes the tick at which something began, and compares."""

    __slots__ = ()

    def look(self, tick: int) -> None:
        """Do what is due at ``tick``. Must not block."""
        raise NotImplementedError


class Sweep:
    """Looks at all connections once a period; ``tick`` is the number of the current sweep.

    A connection keeps the tick at which its peer was last heard. All that were heard since the last sweep share one
    integer object, so this costs no memory. Between a tick and the n-th one after it, more than n - 1 periods pass and,
    if the event loop is on time, at most n.
    """

    slice_size: ClassVar[int] = 1000
    """Connections looked at in one turn of the event loop; to ping them all takes some milliseconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Iterable[object], period: float) -> None:
        """Look at the :class:`Swept` among ``connections``, every ``period`` seconds."""
        self.tick = 0
        self._loop = loop
        self._connections = connections
        self._period = period
        self._timer: asyncio.TimerHandle | None = None  # None while there is nothing to look at
        self._left: list[Swept] = []  # to look at in this sweep

    @property
    def is_running(self) -> bool:
        """Whether a sweep is to come, or under way: there are connections, or were at the last one."""
        return self._timer is not None

    def at_most(self, seconds: float | None) -> int:
        """Return the number of ticks that pass within ``seconds``; None means for ever."""
        return sys.maxsize if seconds is None else max(1, int(seconds / self._period))

    def at_least(self, seconds: float | None) -> int:
        """Return the number of ticks after which ``seconds`` have passed; None means for ever."""
        return sys.maxsize if seconds is None else ceil(seconds / self._period) + 1

    def start(self) -> None:
        """Sweep while there are connections; harmless if it does already."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._period, self._sweep)

    def _sweep(self) -> None:
        self.tick += 1
        self._left = [connection for connection in self._connections if isinstance(connection, Swept)]
        if self._left:
            self._slice()
        else:
            self._timer = None

    def _slice(self) -> None:
        part = self._left[-self.slice_size :]
        del self._left[-self.slice_size :]
        try:
            for connection in part:
                self._look(connection)
        finally:
            if self._left:
                self._loop.call_soon(self._slice)
            else:
                self._timer = self._loop.call_later(self._period, self._sweep)

    def _look(self, connection: Swept) -> None:
        try:
            connection.look(self.tick)
        except Exception:  # one connection's bug must not keep the sweep from the others
            _logger.exception("connection_failed")
