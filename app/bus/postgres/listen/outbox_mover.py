"""Publishing from SQL: moves what ``abide.publish`` left in the outbox into the log.

One worker at a time leads: it drains again and again, and says in a sequence until when it is awake: a value
that everybody sees at once, and reads without a lock to meet at. As long as it says so, publishers ring for
nobody; when it is 0 or has passed, they ring. Between the two nothing is missed:

* a publisher that finds nobody awake rings, and its bell comes with its commit;
* one that finds somebody awake may commit after that drain's last look. But it has put its row in
  before it looked, and so holds a lock on the outbox until after its commit is visible. So whoever has said
  that it is awake says in the end that it sleeps, then asks whether any transaction that has published is
  still under way, and then looks once more. Who read the sequence before it changed is either seen under way
  or seen in that look. Only when none was under way and the look found nothing does it sleep.
* a leader that crashes leaves a time that passes within :data:`LEASE_SECONDS`; after that, publishers
  ring again. What they published meanwhile is found earlier by a worker that heard a bell and did not get
  the lead, for it looks along every :data:`_WATCH_SECONDS` for as long as another leads; by a worker that
  connects, for it looks first; and at last by every worker's poll of the heads.

None of this needs a single leader: whoever says that it is awake owes the last look, and to say that one
sleeps while another is awake costs no more than a few bells. To lead is only the way in which workers do
not all do the same. So it is a lease, a row that only ``abide.lead`` writes: one whose holder died, was
stopped or lost its connection runs out, and no role without our rights can hold it. What must not happen
twice, moving a row, is guarded by the row that ``abide.drain`` locks; who finds it locked leaves the work to
the other and does not wait, because commits use the same connection. It then knows nothing of the outbox,
so that is no look: the last one is repeated.

A bell costs one question, whoever rings: when there is nothing to move and nobody leads, the worker rests.

Where transactions can be prepared (``max_prepared_transactions``) nobody rings: PREPARE TRANSACTION refuses one that
notifies. There each worker asks that question every :data:`_LOOK_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from app.bus.postgres.outcomes import Outcomes

BATCH = 1000
"""Messages moved by one statement, at most."""

LEASE_SECONDS = 1.0
"""For so long a leader is believed to lead and to be awake, unless it says so again."""

_PAUSE = 0.004
_LONGEST_PAUSE = 0.064
_REST = 4
"""At least so many times as long as a drain took is the pause after it: the rest is for publishers."""

_QUIET_SECONDS = 0.5
"""The drain sleeps after so long without anything to do."""

_WATCH_SECONDS = 0.25
"""So often a worker that heard a bell and does not lead looks along."""

_REST_SECONDS = 0.05
"""After a bell for nothing: anybody can ring."""

_LOOK_SECONDS = 0.2
"""So often a worker looks where nobody rings."""

_UNDER_WAY_PAUSE, _LONGEST_UNDER_WAY_PAUSE = 0.1, 0.5
"""Between two looks while a transaction that has published is under way: it may stay so for as long as it likes."""

_AFTER_FAILURE_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class DrainError(Exception):
    """The database did not let the drain do its work; what it would have moved is still there."""


class Session(Protocol):
    """The listening session: to lead ends with it. Each may raise :class:`DrainError`."""

    @property
    def bells(self) -> bool:
        """Whether publishers ring."""

    async def lead(self, seconds: float) -> bool | None:
        """Take or keep the lead for so long; 0: give it back.

        Returns whether it is ours; None when it is nobody's and there is nothing to move.
        """

    async def stay_awake(self, seconds: float) -> None:
        """Tell publishers that a drain is awake for so long; 0: that none is."""

    async def publishing(self) -> bool:
        """Whether a transaction that has published is still under way."""


class Outbox:
    """Sleeps until :meth:`ring`; then drains until there is nothing left.

    ``drain`` moves at most so many messages in one commit and returns how many it moved, or None when
    another is at it; raises :class:`DrainError`.
    """

    def __init__(self, drain: Callable[[int], Awaitable[int | None]], outcomes: Outcomes) -> None:
        self._drain = drain
        self._outcomes = outcomes
        self._bell = asyncio.Event()
        self._owes_a_look = False
        """It was awake, or another was, and nobody is known to have looked since."""

    def ring(self) -> None:
        """Wake up: something was published from SQL."""
        self._bell.set()

    async def run(self, session: Session) -> None:
        """Serve bells for as long as ``session`` lasts."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), None if session.bells else _LOOK_SECONDS)
            self._bell.clear()
            try:
                if not await self._serve(session):
                    await asyncio.sleep(_REST_SECONDS)
            except DrainError as error:
                self._outcomes.failed("drain", str(error))
                _log.warning("drain_failed", reason=str(error))
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
                self.ring()

    async def _serve(self, session: Session) -> bool:
        """Drain, or look along while another leads; return whether there was reason to."""
        while True:
            leads = await session.lead(LEASE_SECONDS)
            if leads is None and not self._owes_a_look:
                return False
            if leads is None:
                await session.stay_awake(0)  # for one that led and has gone without saying so
                more = await self._missed_something(session)
            elif leads:
                self._owes_a_look = True
                more = await self._lead(session)
            else:  # but who leads may be stuck, or go without its last look
                more = self._owes_a_look = True
                await asyncio.sleep(_WATCH_SECONDS)
                await self._drain(BATCH)
            if not more:
                self._owes_a_look = False
                return True

    async def _lead(self, session: Session) -> bool:
        """Drain until it is quiet; return whether there is more all the same."""
        try:
            await self._until_quiet(session)
        finally:
            await session.stay_awake(0)
            await session.lead(0)
        return await self._missed_something(session)

    async def _until_quiet(self, session: Session) -> None:
        pause, quiet, said = _PAUSE, 0.0, float("-inf")
        while quiet < _QUIET_SECONDS:
            began = time.monotonic()
            moved = await self._drain(BATCH)
            took = time.monotonic() - began
            if moved == 0 and said < 0:  # it is all moved already
                return
            if began > said + LEASE_SECONDS / 3:
                if not await session.lead(LEASE_SECONDS):  # it ran out, and another has it
                    return
                await session.stay_awake(LEASE_SECONDS)
                said = began
            if moved == BATCH:
                continue
            pause, quiet = (max(_PAUSE, _REST * took), 0.0) if moved else (pause * 2, quiet + pause)
            pause = min(pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _missed_something(self, session: Session) -> bool:
        pause = _UNDER_WAY_PAUSE
        while True:
            under_way = await session.publishing()
            moved = await self._drain(BATCH)
            if moved:
                return True
            if moved == 0 and not under_way:
                return False
            await asyncio.sleep(_UNDER_WAY_PAUSE)
            with contextlib.suppress(TimeoutError):  # a bell that is rung meanwhile is worth a look at once
                await asyncio.wait_for(self._bell.wait(), pause - _UNDER_WAY_PAUSE)
            self._bell.clear()
            pause = min(pause * 1.5, _LONGEST_UNDER_WAY_PAUSE)
