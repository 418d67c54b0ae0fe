"""Publishing from SQL: moves what ``abide.publish`` left in the outbox into the log.

One worker at a time is awake. It holds :data:`DRAIN_LOCK`, and says in a sequence until when it is:
a value that everybody sees at once, and reads without a lock to meet at. While it stands, publishers
ring for nobody; when it is 0 or has passed, they ring. Between the two nothing is missed:

* a publisher that finds nobody awake rings, and its bell comes with its commit;
* one that finds somebody awake may commit after the drain's last look. But it has put its row in
  before it looked, and so holds a lock on the outbox until after its commit is visible. So the drain
  first says that it sleeps, then asks whether any transaction that has published is still under
  way, and then looks once more. Who read the sequence before it changed is either seen under way
  or seen in that look. Only when none was under way and the look found nothing does it sleep.
* a drain that crashes leaves a time that passes within :data:`LEASE_SECONDS`; after that, publishers
  ring again. What they published meanwhile is found earlier by a worker that heard the drain's bell
  and did not get the lock, for it tries again for as long as the lock is held; by a worker that
  connects, for it looks first; and at last by every worker's poll of the heads.

Who says that it sleeps still holds the lock, so it never takes back what another has said.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

DRAIN_LOCK = 4712340001
"""Advisory lock, held by the drain that is awake."""

BATCH = 1000
"""Messages moved by one statement, at most."""

LEASE_SECONDS = 1.0
"""For so long the drain that is awake is believed to be, unless it says so again."""

_PAUSE = 0.004
_LONGEST_PAUSE = 0.064
_REST = 4
"""At least so many times as long as a drain took is the pause after it: the rest is for publishers."""

_QUIET_SECONDS = 0.5
"""The drain sleeps after so long without anything to do."""

_WATCH_SECONDS = 0.25
"""So often a worker that is not awake looks whether the one that is has gone."""

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

    async def stay_awake(self, seconds: float) -> None:
        """Tell publishers that a drain is awake for so long; 0: that none is."""

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
                await self._serve(session)
            except DrainError as error:
                _log.warning("drain_failed", reason=str(error))
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
                self.ring()

    async def _serve(self, session: Session) -> None:
        more = True
        while more:
            while not await session.try_lock(DRAIN_LOCK):
                # Another worker is awake, and looks once more when it has let go. But it may be stuck, or die.
                await asyncio.sleep(_WATCH_SECONDS)
                await self._drain(BATCH)
            more = await self._lead(session)

    async def _lead(self, session: Session) -> bool:
        """Drain until it is quiet; return whether there is more all the same."""
        try:
            await self._until_quiet(session)
        finally:
            await session.stay_awake(0)
            await session.unlock(DRAIN_LOCK)
        return await self._missed_something(session)

    async def _until_quiet(self, session: Session) -> None:
        pause, quiet, said = _PAUSE, 0.0, float("-inf")
        while quiet < _QUIET_SECONDS:
            began = time.monotonic()
            moved = await self._drain(BATCH)
            took = time.monotonic() - began
            if not moved and said < 0:  # it is all moved already
                return
            if began > said + LEASE_SECONDS / 3:
                await session.stay_awake(LEASE_SECONDS)
                said = began
            if moved == BATCH:
                continue
            pause, quiet = (max(_PAUSE, _REST * took), 0.0) if moved else (pause * 2, quiet + pause)
            pause = min(pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _missed_something(self, session: Session) -> bool:
        while True:
            under_way = await session.publishing()
            if await self._drain(BATCH):
                return True
            if not under_way:
                return False
            await asyncio.sleep(_UNDER_WAY_PAUSE)
