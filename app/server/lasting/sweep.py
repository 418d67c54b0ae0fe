"""One sweep over all connections of a worker, in place of a timer for each."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable
from math import ceil
from typing import ClassVar

_logger = logging.getLogger("uvicorn.error")


class Swept:
    """What the sweep looks at; notes the tick of what it waits for, and compares."""

    __slots__ = ()

    def look(self, tick: int) -> None:
        """Do what is due at ``tick``. Must not block."""
        raise NotImplementedError


class Sweep:
    """Counts sweeps: ``tick`` is the number of the current one.

    A connection keeps the tick at which it was last heard from. That is the same integer object for
    all that were heard from since the last sweep, so that it costs no memory. Between a tick and
    the n-th after it lie more than n - 1 periods and, as far as the event loop is on time, at most n.
    """

    slice_size: ClassVar[int] = 1000
    """Connections looked at in one turn of the event loop: some milliseconds if every one is pinged."""

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
        """Return the number of ticks that pass within so many seconds; None stands for ever."""
        return sys.maxsize if seconds is None else max(1, int(seconds / self._period))

    def at_least(self, seconds: float | None) -> int:
        """Return the number of ticks within which so many seconds pass; None stands for ever."""
        return sys.maxsize if seconds is None else ceil(seconds / self._period) + 1

    def start(self) -> None:
        """Sweep for as long as there are connections. Harmless when it does already."""
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
        except Exception:  # one connection's bug must not keep the others from being looked at
            _logger.exception("connection_failed")
