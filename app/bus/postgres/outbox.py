"""Publishing from SQL: moves what ``abide.publish`` left in the outbox into the log.

One worker at a time is awake. While it is, it holds :data:`DRAIN_LOCK`, and publishers see that
nobody needs to be woken; when it sleeps, they ring. Between the two nothing is missed:

* a publisher that finds the lock free rings, and its bell comes with its commit;
* one that finds it taken may commit after the drain's last look. So the drain lets go of the
  lock first, then asks whether any transaction that has published is still under way (it holds
  a lock on the outbox until after its commit is visible), and then looks once more. Only when
  none was under way and the look found nothing does it sleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

DRAIN_LOCK = 4712340001
"""Advisory lock: held alone by the drain that is awake, for an instant shared by publishers."""

BATCH = 1000
"""Messages moved by one statement, at most."""

_PAUSE = 0.004
_LONGEST_PAUSE = 0.064
_QUIET_SECONDS = 0.5
"""The drain sleeps after so long without anything to do."""

_UNDER_WAY_PAUSE = 0.1
_AFTER_FAILURE_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class DrainError(Exception):
    """The database did not let the drain do its work; what it would have moved is still there."""


class Session(Protocol):
    """The listening session: it keeps the lock, and loses it when it is lost."""

    async def try_lock(self, key: int) -> bool:
        """Take an advisory lock if nobody has it."""

    async def unlock(self, key: int) -> None:
        """Give it back."""

    async def publishing(self) -> bool:
        """Whether a transaction that has published is still under way."""


class Outbox:
    """Sleeps until :meth:`ring`; then drains until there is nothing left.

    ``drain`` moves at most so many messages in one commit and returns how many it moved; raises
    :class:`DrainError`.
    """

    def __init__(self, drain: Callable[[int], Awaitable[int]]) -> None:
        self._drain = drain
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Wake up: something was published from SQL."""
        self._bell.set()

    async def run(self, session: Session) -> None:
        """Serve bells for as long as ``session`` lasts."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            try:
                await self._awake(session)
            except DrainError as error:
                _log.warning("drain_failed", reason=str(error))
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
                self.ring()

    async def _awake(self, session: Session) -> None:
        while await self._lock(session):
            try:
                await self._until_quiet()
            finally:
                await session.unlock(DRAIN_LOCK)
            if not await self._missed_something(session):
                return
        # Another worker is awake, and what rang is its to move. But who holds the lock may also be stuck.
        await self._drain(BATCH)

    async def _lock(self, session: Session) -> bool:
        # A publisher may be holding it for its instant: only who holds it longer is awake.
        for pause in (0.001, 0.003, 0.01):
            if await session.try_lock(DRAIN_LOCK):
                return True
            await asyncio.sleep(pause)
        return await session.try_lock(DRAIN_LOCK)

    async def _until_quiet(self) -> None:
        pause, quiet = _PAUSE, 0.0
        while quiet < _QUIET_SECONDS:
            moved = await self._drain(BATCH)
            if moved == BATCH:
                continue
            pause, quiet = (_PAUSE, 0.0) if moved else (min(pause * 2, _LONGEST_PAUSE), quiet + pause)
            await asyncio.sleep(pause)

    async def _missed_something(self, session: Session) -> bool:
        while True:
            under_way = await session.publishing()
            if await self._drain(BATCH):
                return True
            if not under_way:
                return False
            await asyncio.sleep(_UNDER_WAY_PAUSE)
