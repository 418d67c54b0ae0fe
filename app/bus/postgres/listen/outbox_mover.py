"""The outbox mover: decides when what ``abide.publish`` left in the outbox is moved into the log.

One worker at a time leads. It moves again and again, and says in a sequence until when it is awake. Everybody sees that
value at once and reads it without a lock, where publishers would queue. While the time has not passed, publishers ring
for nobody; when it has passed, or is 0, they ring. Nothing is missed between the two:

* A publisher that finds nobody awake rings, and its bell comes with its commit.
* A publisher that finds a worker awake may commit after that worker's last look. But it inserted its row before it
  looked, so it holds a lock on the outbox until its commit is visible. So a worker that has said that it is awake ends
  in three steps: it says that it sleeps, asks whether a transaction that has published is still under way, and looks
  once more. A publisher that read the sequence before it changed is either seen under way, or its row is seen in that
  look. The worker sleeps only when no transaction was under way and the look found nothing.
* The time of a leader that crashes passes within :data:`LEASE_SECONDS`; after that, publishers ring again. What they
  published until then is found by a worker that heard a bell and did not get the lead, since it moves too, every
  :data:`_WATCH_SECONDS`, while another leads; by a worker that connects, since it looks first; and at last by every
  worker's look at the heads.

None of this needs a single leader. Every worker that says that it is awake owes the last look, and to say that none is
awake while another is costs a few bells. The lead only keeps workers from all doing the same. So it is a lease: a row
that only ``abide.lead`` writes. It runs out if its holder dies, is stopped or loses its connection, and no role without
our rights can hold it. Moving a row must not happen twice, and the row that ``abide.drain`` locks guards that. A worker
that finds it locked leaves the work to the other and does not wait, because commits use the same connection. It then
knows nothing of the outbox, so that does not count as a look, and it looks again.

A bell costs one question, even a false one: when there is nothing to move and nobody leads, the worker rests.

Where transactions can be prepared (``max_prepared_transactions``) nobody rings, because PREPARE TRANSACTION refuses a
transaction that notifies. There each worker asks that question every :data:`_LOOK_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from app.bus.outcomes import Outcomes
from app.bus.postgres.append.outbox import MoveError

BATCH = 1000
"""The most messages that one statement moves."""

LEASE_SECONDS = 1.0
"""A leader counts as leading and awake for this long, unless it says so again."""

_PAUSE = 0.004
_LONGEST_PAUSE = 0.064
_REST = 4
"""The pause after a move is at least this many times as long as the move, to leave the database to publishers."""

_QUIET_SECONDS = 0.5
"""The leader sleeps when there was nothing to move for this long."""

_WATCH_SECONDS = 0.25
"""The pause between two moves of a worker that heard a bell and does not lead."""

_REST_SECONDS = 0.05
"""The pause after a bell for nothing: every role can ring."""

_LOOK_SECONDS = 0.2
"""The pause between two looks where nobody rings."""

_UNDER_WAY_PAUSE, _LONGEST_UNDER_WAY_PAUSE = 0.1, 0.5
"""The pause between two looks while a transaction that has published is under way, which may take any time."""

_AFTER_FAILURE_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class Leadership(Protocol):
    """How a mover leads: by a listening session, whose end ends the lead. Each may raise :class:`MoveError`."""

    @property
    def bells(self) -> bool:
        """Whether publishers ring."""

    async def lead(self, seconds: float) -> bool | None:
        """Take or keep the lead for so many seconds; 0 gives it back.

        Returns whether it is ours, or None when nobody has it and there is nothing to move.
        """

    async def stay_awake(self, seconds: float) -> None:
        """Tell publishers that a mover is awake for so many seconds; 0 says that none is."""

    async def publishing(self) -> bool:
        """Whether a transaction that has published is still under way."""


class OutboxMover:
    """Sleeps until :meth:`ring`; then moves until there is nothing left.

    ``move`` is :meth:`app.bus.postgres.append.outbox.Outbox.move`.
    """

    def __init__(self, move: Callable[[int], Awaitable[int | None]], outcomes: Outcomes) -> None:
        self._move = move
        self._outcomes = outcomes
        self._bell = asyncio.Event()
        self._owes_a_look = False
        """It was awake, or another worker was, and nobody is known to have looked since."""

    def ring(self) -> None:
        """Wake up: something was published from SQL."""
        self._bell.set()

    async def run(self, session: Leadership) -> None:
        """Serve bells for as long as ``session`` lasts."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if session.bells else _LOOK_SECONDS):
                    await self._bell.wait()
            self._bell.clear()
            try:
                if not await self._serve(session):
                    await asyncio.sleep(_REST_SECONDS)
            except MoveError as error:
                self._outcomes.failed("move", str(error))
                _log.warning("drain_failed", reason=str(error))
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
                self.ring()

    async def _serve(self, session: Leadership) -> bool:
        """Move, or move along while another leads; return whether there was reason to."""
        while True:
            leads = await session.lead(LEASE_SECONDS)
            if leads is None and not self._owes_a_look:
                return False
            if leads is None:
                await session.stay_awake(0)  # in place of a leader that has gone without saying so
                more = await self._missed_something(session)
            elif leads:
                self._owes_a_look = True
                more = await self._lead(session)
            else:  # but the leader may be stuck, or go without its last look
                more = self._owes_a_look = True
                await asyncio.sleep(_WATCH_SECONDS)
                await self._move(BATCH)
            if not more:
                self._owes_a_look = False
                return True

    async def _lead(self, session: Leadership) -> bool:
        """Move until it is quiet; return whether there is more all the same."""
        try:
            await self._until_quiet(session)
        finally:
            await session.stay_awake(0)
            await session.lead(0)
        return await self._missed_something(session)

    async def _until_quiet(self, session: Leadership) -> None:
        pause, quiet, said = _PAUSE, 0.0, float("-inf")
        while quiet < _QUIET_SECONDS:
            began = time.monotonic()
            moved = await self._move(BATCH)
            took = time.monotonic() - began
            if moved == 0 and said < 0:  # all of it is moved already
                return
            if began > said + LEASE_SECONDS / 3:
                if not await session.lead(LEASE_SECONDS):  # the lease ran out, and another worker has it
                    return
                await session.stay_awake(LEASE_SECONDS)
                said = began
            if moved == BATCH:
                continue
            pause, quiet = (max(_PAUSE, _REST * took), 0.0) if moved else (pause * 2, quiet + pause)
            pause = min(pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _missed_something(self, session: Leadership) -> bool:
        pause = _UNDER_WAY_PAUSE
        while True:
            under_way = await session.publishing()
            moved = await self._move(BATCH)
            if moved:
                return True
            if moved == 0 and not under_way:
                return False
            await asyncio.sleep(_UNDER_WAY_PAUSE)
            with contextlib.suppress(TimeoutError):  # a bell in the meantime is worth a look at once
                async with asyncio.timeout(pause - _UNDER_WAY_PAUSE):
                    await self._bell.wait()
            self._bell.clear()
            pause = min(pause * 1.5, _LONGEST_UNDER_WAY_PAUSE)
