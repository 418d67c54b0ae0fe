"""One listening session: its connection, and what is known of the database that it is in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from app.bus.postgres import sql
from app.bus.postgres.append.outbox import MoveError
from app.bus.postgres.listen.heartbeats import Heartbeats
from app.bus.postgres.listen.notifications import Seal
from app.bus.postgres.sessions.faults import explain
from app.bus.postgres.sessions.session import Session, is_over

_ANSWER_SECONDS = 3.0
"""How long a statement may take."""


@dataclass(slots=True, eq=False)
class ListenSession:
    """A session that listens, and leads with :class:`~app.bus.postgres.listen.outbox_mover.Leadership`.

    Each has its own of everything, so that nothing of an earlier one reaches a later one.
    """

    connection: Session
    server: str = ""
    """Which database it is in, as server.sql says it."""
    seal: Seal | None = None
    """What proves messages; without it they are hints."""
    bells: bool = True
    """Whether publishers in SQL ring."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        """Run the statement of this name when its turn comes."""
        async with self._turn:
            rows: list[asyncpg.Record] = await self.connection.fetch(
                sql.query(name), *arguments, timeout=_ANSWER_SECONDS
            )
            return rows

    async def lead(self, seconds: float) -> bool | None:
        """Take, keep or give back the lead; see ``Leadership``."""
        leads: bool | None = await self._ask("lead", round(seconds * 1000))
        return leads

    async def stay_awake(self, seconds: float) -> None:
        """Tell publishers for how long a mover is awake; see ``Leadership``."""
        await self._ask("stay_awake", round(seconds * 1000))

    async def publishing(self) -> bool:
        """Whether a transaction that has published is still under way."""
        return bool(await self._ask("publishing"))

    async def _ask(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 — one value of the database's
        try:
            return (await self.fetch(name, *arguments))[0][0]
        except asyncpg.PostgresError as error:
            if is_over(error):
                raise
            raise MoveError(explain(error)) from error
