"""Reads of the log: repeated while the connection is lost, and judged by the epoch that they come from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg
import structlog

from app.bus.backend import PAGE_BYTES, PATIENCE_SECONDS
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.postgres import sql
from app.bus.postgres.migrations import EMPTY
from app.bus.postgres.rows import Rows
from app.bus.postgres.sessions.faults import explain
from app.bus.postgres.sessions.refusals import NOT_READY, of_data, unavailable
from app.bus.postgres.sessions.session import LOST, RETRY_SECONDS, is_over
from app.bus.postgres.sessions.work_connection import WorkConnections
from app.bus.reads.page_of import PageOf
from app.bus.reads.together import Together
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Message, Page, consecutive
from app.core.tail import fitting

TURN_SECONDS = 1.0
"""What a read has at least from its turn on, to connect and to read, however long it waited. To cut it off costs the
connection, and while many wait, one that is cut off for each turn would keep all of them from ever being read."""

_LOOK_SECONDS = 0.02

_MOST_PLACES, _MOST_PAGES = 1000, 16
"""How many are read in one statement. A page has 256 KiB, or one message."""

_IN_OUTBOX = "what was taken back from SQL is still in abide.outbox: it is being moved into the log"

_log = structlog.get_logger(__name__)


class Listening(Protocol):
    """What the listening session knows, for reads to compare with."""

    @property
    def sessions(self) -> int:
        """How many listening sessions there have been. A new one may have come to another server."""

    @property
    def epoch(self) -> str:
        """The name of the log's newest epoch; empty until it is known."""

    def look(self) -> None:
        """Learn that a read has found another epoch."""


@dataclass(slots=True)
class _ReadAttempts:
    """What is known of the attempts at one read. One that only waited for its turn says nothing of the database."""

    patience: asyncio.Timeout
    begun: bool = False
    last: BaseException | None = None
    """Why the last one did not work."""

    def turned(self) -> None:
        """Leave the first one some time from its turn on."""
        if not self.begun:
            self.begun = True
            end = asyncio.get_running_loop().time() + TURN_SECONDS
            self.patience.reschedule(max(self.patience.when() or 0.0, end))


class LogReads:
    """Reads over ``connections``. Each method raises :class:`UnavailableError` while the database is away."""

    def __init__(self, connections: WorkConnections, outcomes: Outcomes, listening: Listening) -> None:
        self._connections = connections
        self._outcomes = outcomes
        self._listening = listening
        self._rows_apart = Rows()
        self._places = Together(self._read_places, _MOST_PLACES, NOT_READY)
        self._pages = Together(self._read_pages, _MOST_PAGES, NOT_READY)
        self._said: str | None = None
        """Why the last read was given up; None since one worked."""

    async def page(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see :meth:`app.bus.backend.Backend.read`."""
        return await self._pages.ask(PageOf(channel, after, limit, history))

    async def place(self, channel: str) -> Place:
        """Read where a channel is."""
        return await self._places.ask(channel)

    async def wait_for_taken_back(self, deadline: float) -> None:
        """Return when what was taken back until now is in the log; raise :class:`UnavailableError` at the deadline.

        Transactions may have committed while no server ran: what they left in the outbox is no message yet.
        """
        (first,) = await self._rows("taken_back_waiting")
        oldest = first["oldest"]
        while oldest is not None and oldest <= first["newest"]:
            if time.monotonic() > deadline:
                raise UnavailableError(_IN_OUTBOX)
            await asyncio.sleep(_LOOK_SECONDS)
            (row,) = await self._rows("taken_back_waiting")
            oldest = row["oldest"]

    async def behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        """Read, for each channel, where it is and the next messages past an offset."""
        rows = await self._rows_of_epoch("behind", list(wanted), list(wanted.values()))
        places = {row["channel"]: Place(row["lineage"], row["head"]) for row in rows}
        found: dict[str, list[asyncpg.Record]] = {channel: [] for channel in places}
        for row in rows:
            found[row["channel"]].append(row)
        return {
            channel: (place, consecutive(self._rows_apart.messages(channel, wanted[channel], found[channel])))
            for channel, place in places.items()
        }

    async def close(self) -> None:
        """Close the connections."""
        self._places.close()
        self._pages.close()
        await self._connections.close()

    async def _read_places(self, channels: Sequence[str]) -> list[Place]:
        rows = await self._rows_of_epoch("place", channels)
        found = {row["channel"]: Place(row["lineage"], row["head"]) for row in rows}
        return [found[channel] for channel in channels]

    async def _read_pages(self, asked: Sequence[PageOf]) -> list[Page]:
        columns = [(one.channel, one.after, one.limit, one.history.size, one.history.ttl * 1000) for one in asked]
        found = await self._rows_of_epoch("read", *map(list, zip(*columns, strict=True)), PAGE_BYTES)
        rows: list[list[asyncpg.Record]] = [[] for _ in asked]
        for row in found:
            rows[row["i"] - 1].append(row)
        return [self._page(one, its) for one, its in zip(asked, rows, strict=True)]

    def _page(self, asked: PageOf, rows: list[asyncpg.Record]) -> Page:
        first, head = rows[0]["first"], rows[0]["head"]
        begin = max(asked.after + 1, first)
        found = consecutive(self._rows_apart.messages(asked.channel, begin - 1, rows))
        self._rows_apart.tell_of_hole(asked.channel, begin, found)
        return Page(first, head, fitting(found[: asked.limit], PAGE_BYTES), rows[0]["lineage"])

    async def _rows_of_epoch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Read rows of the present epoch. If its certificate does not hold, open the next one and read again."""
        rows = await self._rows(query, *arguments)
        if rows and not rows[0]["certified"]:
            await self._enter()
            rows = await self._rows(query, *arguments)
        if not rows:
            raise UnavailableError(NOT_READY) from UnavailableError(EMPTY)
        if rows[0]["epoch"] != self._listening.epoch:
            # Either the listener is behind, or this connection leads to a server that is not the one any more.
            self._listening.look()
            self._connections.renew()
        return rows

    async def _enter(self) -> None:
        try:
            async with (
                asyncio.timeout(PATIENCE_SECONDS),
                self._connections.session(self._listening.sessions) as session,
            ):
                await session.fetch(sql.query("enter"), None)
        except asyncpg.ReadOnlySQLTransactionError:
            pass  # nothing is appended there, so what can be read is all that there is
        except (UnavailableError, *LOST, asyncpg.PostgresError) as error:
            self._failed(error)
            raise unavailable(error) from error

    async def _rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Read, and read again where the connection is lost: a read can be repeated."""
        attempts = _ReadAttempts(asyncio.timeout(PATIENCE_SECONDS))
        try:
            async with attempts.patience:
                rows = await self._read(attempts, sql.query(query), arguments)
        except (*LOST, UnavailableError, asyncpg.PostgresError) as error:
            if attempts.begun:
                self._failed(attempts.last or error)
            raise unavailable(error) from error
        self._outcomes.worked("read")
        self._said = None
        return rows

    async def _read(
        self, attempts: _ReadAttempts, statement: str, arguments: tuple[object, ...]
    ) -> list[asyncpg.Record]:
        renewed = False
        while True:
            try:
                async with self._connections.session(self._listening.sessions, attempts.turned) as session:
                    with self._outcomes.under_way("read"):
                        rows: list[asyncpg.Record] = await session.fetch(statement, *arguments)
            except (UnavailableError, *LOST) as error:
                attempts.last = error
                await asyncio.sleep(RETRY_SECONDS)
            except asyncpg.PostgresError as error:
                if renewed or not is_over(error):
                    raise
                renewed = True
            else:
                return rows

    def _failed(self, error: BaseException) -> None:
        reason = explain(error)
        if not of_data(error):
            self._outcomes.failed("read", reason)
        if reason != self._said:
            _log.error("read_given_up", reason=reason)
        self._said = reason
