"""Moves rows of the outbox into the log, one commit at a time. ``listen/outbox_mover`` decides when."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from app.bus.outcomes import Outcomes
from app.bus.postgres import sql
from app.bus.postgres.sessions.faults import explain
from app.bus.postgres.sessions.refusals import NOTIFY_REFUSED, of_data
from app.bus.postgres.sessions.session import LOST
from app.bus.postgres.sessions.work_connection import WorkConnection
from app.core.errors import UnavailableError
from app.core.ports import Meter

_MOVE_SECONDS = 3.0
"""How long a move may take: commits wait for it."""

_log = structlog.get_logger(__name__)


class MoveError(Exception):
    """The database refused to move the outbox. What would have been moved is still there."""


class Outbox:
    """The outbox, reached by the connection that commits use. ``inline`` lets notifications carry messages."""

    def __init__(self, connection: WorkConnection, outcomes: Outcomes, meter: Meter, *, inline: bool) -> None:
        self._connection = connection
        self._outcomes = outcomes
        self._meter = meter
        self._inline = inline

    async def move(self, most: int) -> int | None:
        """Move the oldest rows, ``most`` at most; return how many, or None while another worker is moving them.

        Raises :class:`MoveError`, which says why.
        """
        try:
            with self._outcomes.under_way("move"):
                async with asyncio.timeout(_MOVE_SECONDS):
                    row = await self._move(most)
        except (UnavailableError, asyncpg.PostgresError, *LOST) as error:
            if not of_data(error):
                raise MoveError(explain(error)) from error
            if most > 1:  # the rows before the one that is refused can be moved
                return await self.move(most // 2)
            msg = f"the oldest row of abide.outbox is refused, and those after it wait: {explain(error)}"
            raise MoveError(msg) from error
        self._outcomes.worked("move")
        if row["channels"]:
            self._meter.published(dict(zip(row["channels"], row["counts"], strict=True)))
        moved: int | None = row["drained"]
        return moved

    async def _move(self, most: int) -> asyncpg.Record:
        try:
            return await self._send(most, self._inline)
        except NOTIFY_REFUSED as error:
            _log.warning("notify_refused", reason=explain(error))
            return await self._send(most, None)  # followers find out by their poll

    async def _send(self, most: int, inline: bool | None) -> asyncpg.Record:  # noqa: FBT001 — as in SQL
        async with self._connection.session() as session:
            (row,) = await session.fetch(sql.query("move_outbox"), most, inline)
            return row
