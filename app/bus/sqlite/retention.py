"""Retention: deletes what no history shows any more, and gives the room back. One worker at a time does it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from pathlib import Path

import structlog

from app.bus.backend import KEY_LIFETIME, Retention
from app.bus.clock import Clock
from app.bus.sqlite.file.file_faults import FileError, explain
from app.bus.sqlite.file.open_file import WAL_BYTES, Opened
from app.bus.sqlite.file.transactions import transaction
from app.bus.sqlite.log_file import LogFile
from app.core.channel import HistoryWindow

_EVERY_SECONDS = 10.0
_PAGE_CHANNELS = 200
_BATCH_ROWS = 1000
"""The most rows that one transaction deletes: commits wait for it."""

_GRACE_MS = 60_000
"""A message stays for a minute at least, whatever its history: followers may still have to fetch it."""

_FREE_PAGES, _FREE_SHARE = 4096, 4
"""The file is made shorter when it has so many unused pages, and they are a quarter of it."""
_GIVEN_BACK = 1000
"""The most pages that one transaction gives back."""

_log = structlog.get_logger(__name__)

_Page = Sequence[tuple[int, str]]
"""Some channels: their numbers and names."""


async def run(file: LogFile, retention: Retention) -> None:
    """Trim the log again and again; never returns."""
    clock, wal = Clock(), WriteAheadLog()
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        try:
            with _turn(file.folder) as is_ours:
                if is_ours and clock.believes(time.time()):
                    await trim(file, retention)
                if is_ours:
                    await file.writes(wal.bound)
        except (FileError, sqlite3.Error, OSError) as error:
            _log.warning("retention_failed", reason=explain(error, file.path))
        except Exception:  # noqa: BLE001 — a bug fails one round, and is logged each time
            _log.exception("retention_failed")


async def trim(file: LogFile, retention: Retention) -> int:
    """Trim every channel once; return how many rows were deleted."""
    deleted = 0
    async with contextlib.aclosing(_pages(file)) as pages:
        async for page in pages:
            windows = [retention(channel) for _, channel in page]
            while gone := await file.writes(partial(_delete, page, windows)):
                deleted += gone
            await file.writes(partial(_forget, page, windows))
    while gone := await file.writes(_delete_keys):
        deleted += gone
    await file.writes(give_back)
    return deleted


async def _pages(file: LogFile) -> AsyncGenerator[_Page]:
    last = 0
    while True:
        page: _Page = await file.reads(
            lambda connection, _: connection.execute(
                "SELECT id, channel FROM head WHERE id > ? ORDER BY id LIMIT ?",
                (last, _PAGE_CHANNELS),  # noqa: B023 — it is awaited here
            ).fetchall()
        )
        if page:
            yield page
            last = page[-1][0]
        if len(page) < _PAGE_CHANNELS:
            return


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[bool]:
    """Take the turn, and give it back; yield False if another worker has it."""
    lock = os.open(folder / "trim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def _delete(page: _Page, windows: Sequence[HistoryWindow], opened: Opened) -> int:
    """Delete a batch of what no history shows; return how many rows."""
    now = _now()
    found: list[tuple[int, int, int]] = []
    for (id_, _), window in zip(page, windows, strict=True):
        upto, rows = _expired(opened.writer, id_, window, now, _BATCH_ROWS - sum(rows for _, _, rows in found))
        if rows:
            found.append((id_, upto, rows))
        if sum(rows for _, _, rows in found) >= _BATCH_ROWS:
            break
    if not found:
        return 0
    with transaction(opened):
        for id_, upto, _ in found:
            opened.writer.execute("DELETE FROM log WHERE channel = ? AND last <= ?", (id_, upto))
    return sum(rows for _, _, rows in found)


def _expired(connection: sqlite3.Connection, id_: int, window: HistoryWindow, now: int, most: int) -> tuple[int, int]:
    """Return up to which offset a channel's rows can be deleted, and how many those are."""
    upto = rows = 0
    found = connection.execute(
        "SELECT l.last, l.time, h.head FROM head h JOIN log l ON l.channel = h.id WHERE h.id = ? ORDER BY l.last",
        (id_,),
    )
    for last, taken, head in found:
        is_kept = last > head - window.size and taken >= now - window.ttl * 1000
        if is_kept or now - _GRACE_MS <= taken <= now or rows == most:
            break
        upto, rows = last, rows + 1
    found.close()
    return upto, rows


def _forget(page: _Page, windows: Sequence[HistoryWindow], opened: Opened) -> None:
    """Forget the names that hold nothing, and got nothing for twice their ttl and a minute."""
    now = _now()
    idle = [
        (id_, now - 2000 * window.ttl - _GRACE_MS)
        for (id_, _), window in zip(page, windows, strict=True)
        if opened.writer.execute(
            "SELECT 1 FROM head WHERE id = ? AND time < ? AND NOT EXISTS (SELECT 1 FROM log WHERE channel = head.id)",
            (id_, now - 2000 * window.ttl - _GRACE_MS),
        ).fetchone()
    ]
    if not idle:
        return
    with transaction(opened):
        opened.writer.executemany(
            "DELETE FROM head WHERE id = ? AND time < ? AND NOT EXISTS (SELECT 1 FROM log WHERE channel = head.id)",
            idle,
        )


def _delete_keys(opened: Opened) -> int:
    """Delete a batch of keys that have expired; return how many. Those of a clock that had jumped become present."""
    now = _now()
    (expired,) = opened.writer.execute(
        "SELECT EXISTS (SELECT 1 FROM key WHERE time < ? OR time > ?)", (now - KEY_LIFETIME * 1000, now + 1000)
    ).fetchone()
    if not expired:
        return 0
    with transaction(opened):
        opened.writer.execute("UPDATE key SET time = ? WHERE time > ?", (now, now + 1000))
        return opened.writer.execute(
            "DELETE FROM key WHERE (channel, key) IN"
            " (SELECT channel, key FROM key WHERE time < ? ORDER BY time LIMIT ?)",
            (now - KEY_LIFETIME * 1000, _BATCH_ROWS),
        ).rowcount


def give_back(opened: Opened) -> None:
    """Make the file shorter, a step each round, where much of it is unused."""
    (free,) = opened.writer.execute("PRAGMA freelist_count").fetchone()
    (pages,) = opened.writer.execute("PRAGMA page_count").fetchone()
    if free >= _FREE_PAGES and free * _FREE_SHARE >= pages:
        with transaction(opened):
            for _ in range(_GIVEN_BACK):  # Python ends the statement after its first step, which is one page
                opened.writer.execute("PRAGMA incremental_vacuum(1)")


class WriteAheadLog:
    """Keeps the write-ahead log from growing where readers are always in its way."""

    def __init__(self) -> None:
        self._is_told = False

    def bound(self, opened: Opened) -> None:
        """Begin the write-ahead log anew if it has grown; tell once if another program's reader is in the way."""
        size = _size(opened)
        if size <= WAL_BYTES:
            self._is_told = False
            return
        opened.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if _size(opened) > WAL_BYTES and not self._is_told:
            self._is_told = True
            _log.warning(
                "wal_grows",
                file=str(opened.path),
                bytes=size,
                detail="a transaction of another program reads the log for long: end it, or the disk fills up",
            )


def _size(opened: Opened) -> int:
    try:
        return Path(f"{opened.path}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _now() -> int:
    return int(time.time() * 1000)
