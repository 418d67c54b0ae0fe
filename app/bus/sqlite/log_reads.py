"""Reads of the log, each in one snapshot; repeated while the file is not open."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import structlog

from app.bus import bodies
from app.bus.backend import PAGE_BYTES, PATIENCE_SECONDS
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.reads.page_of import PageOf
from app.bus.reads.together import Together
from app.bus.sqlite import epoch
from app.bus.sqlite.epoch import Present
from app.bus.sqlite.file.file_faults import NOT_READY, FileError, explain, is_locked, unavailable
from app.bus.sqlite.log_file import LogFile
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Message, Page, consecutive
from app.core.tail import fitting

_RETRY_SECONDS = 0.1

_FETCH_BYTES, _FETCH_ROWS = 1_000_000, 200
"""The most that a fetch for followers brings of one channel."""

_PLACES_AT_ONCE, _PAGES_AT_ONCE = 500, 16
"""How many are read in one snapshot. A page has 256 KiB, or one message."""

_LARGEST_ROW = 1_200_000
"""No row that a server writes has as many bytes; a larger one is left out, as if it had been deleted."""

_Result = TypeVar("_Result")
_Row = tuple[int, int, bytes]
"""The last offset, the time and the body."""

_log = structlog.get_logger(__name__)


class LogReads:
    """Reads of the file. Each method raises :class:`UnavailableError` while it cannot be read."""

    def __init__(self, file: LogFile, outcomes: Outcomes) -> None:
        self._file = file
        self._outcomes = outcomes
        self._said = ""
        """Why the last read was given up; empty since one worked."""
        self._begun = Together(self._read_places, _PLACES_AT_ONCE, NOT_READY)
        self._pages = Together(self._read_pages, _PAGES_AT_ONCE, NOT_READY)

    async def page(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see :meth:`app.bus.backend.Backend.read`."""
        return await self._pages.ask(PageOf(channel, after, limit, history))

    async def place(self, channel: str) -> Place:
        """Read where a channel is."""
        return await self._begun.ask(channel)

    async def places(self, channels: Sequence[str]) -> tuple[Present, Mapping[str, Place]]:
        """Read what the present epoch is, and where channels are in it."""
        return await self._read(partial(_places, channels))

    async def behind(self, wanted: Mapping[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        """Read, for each channel, where it is and the next messages past an offset."""
        return await self._read(partial(_behind, wanted))

    def close(self) -> None:
        """Refuse what waits."""
        self._begun.close()
        self._pages.close()

    async def _read_places(self, channels: Sequence[str]) -> list[Place]:
        _, found = await self.places(channels)
        return [found[channel] for channel in channels]

    async def _read_pages(self, asked: Sequence[PageOf]) -> list[Page]:
        return await self._read(partial(_read_each, asked))

    async def _read(self, function: Callable[[sqlite3.Connection, Present], _Result]) -> _Result:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self._outcomes.under_way("read"):
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                        found = await self._file.reads(function)
            except (FileError, OSError, sqlite3.Error) as error:
                is_passing = isinstance(error, FileError) or is_locked(error)
                if not is_passing or time.monotonic() + _RETRY_SECONDS > deadline:
                    raise self._refusal(error) from error
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._outcomes.worked("read")
                self._said = ""
                return found

    def _refusal(self, error: BaseException) -> UnavailableError:
        reason = explain(error, self._file.path)
        self._outcomes.failed("read", reason)
        if reason != self._said:
            _log.error("read_given_up", reason=reason)
        self._said = reason
        return unavailable(error)


def _places(
    channels: Sequence[str], connection: sqlite3.Connection, present: Present
) -> tuple[Present, dict[str, Place]]:
    return present, {channel: _place(connection, channel, present)[1] for channel in channels}


def _place(connection: sqlite3.Connection, channel: str, present: Present) -> tuple[int | None, Place]:
    """Return the channel's number, None if it has none, and where it is."""
    row = connection.execute("SELECT id, head, lineage FROM head WHERE channel = ?", (channel,)).fetchone()
    if row is None:
        return None, Place(present.lineage, present.floor)
    id_, head, lineage = row
    return id_, Place(epoch.continued(lineage, head, present.lineage), head)


def _read_each(asked: Sequence[PageOf], connection: sqlite3.Connection, present: Present) -> list[Page]:
    return [_page(one, connection, present) for one in asked]


def _page(asked: PageOf, connection: sqlite3.Connection, present: Present) -> Page:
    channel, after, limit, history = asked
    id_, place = _place(connection, channel, present)
    shown = connection.execute(
        "SELECT last - n + 1 FROM log WHERE channel = ? AND last > ? AND time >= ? ORDER BY last LIMIT 1",
        (id_, place.head - history.size, int(time.time() * 1000) - history.ttl * 1000),
    ).fetchone()
    first = place.head + 1 if shown is None else max(shown[0], place.head - history.size + 1)
    begin = max(after + 1, first)
    rows = _rows(connection, id_, begin - 1, PAGE_BYTES, limit)
    found = consecutive(_messages(begin - 1, rows)[:limit])
    return Page(first, place.head, fitting(found, PAGE_BYTES), place.lineage)


def _behind(
    wanted: Mapping[str, int], connection: sqlite3.Connection, present: Present
) -> dict[str, tuple[Place, tuple[Message, ...]]]:
    found = {}
    for channel, after in wanted.items():
        id_, place = _place(connection, channel, present)
        rows = _rows(connection, id_, after, _FETCH_BYTES, _FETCH_ROWS)
        found[channel] = place, consecutive(_messages(after, rows))
    return found


def _rows(connection: sqlite3.Connection, id_: int | None, after: int, most_bytes: int, most: int) -> Iterator[_Row]:
    """Read the rows past an offset, up to the one that reaches a limit; each row has one message at least."""
    rows = connection.execute(
        "SELECT last, time, body FROM log WHERE channel = ? AND last > ? AND length(body) < ? ORDER BY last LIMIT ?",
        (id_, after, _LARGEST_ROW, most),
    )
    size = 0
    for last, taken, body in rows:
        yield last, taken, body if isinstance(body, bytes) else str(body).encode()
        size += len(body)
        if size >= most_bytes:
            break
    rows.close()


def _messages(after: int, rows: Iterable[_Row]) -> list[Message]:
    """Return the messages past ``after``; offsets ascend and come once."""
    found: list[Message] = []
    for last, taken, body in rows:
        found += [message for message in bodies.messages(last, taken, body) if message.offset > after]
        after = max(after, last)
    return found
