"""The file as the event loop uses it: SQL runs in two threads, one that writes and one that reads."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from app.bus.seen import Seen
from app.bus.sqlite import epoch
from app.bus.sqlite.epoch import Present
from app.bus.sqlite.file.file_faults import NOT_READY, FileError, is_over
from app.bus.sqlite.file.open_file import Opened, open_file
from app.bus.sqlite.file.thread import Thread

_CLOSE_SECONDS = 5.0
"""How long to wait for what is under way: a worker that is stopped in the midst of its turn may never end it."""

_Result = TypeVar("_Result")


class LogFile:
    """The file at ``path``, while it is open and while it is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = asyncio.Event()
        """Set when it has to be opened again."""
        self.is_open = asyncio.Event()
        self.reason = NOT_READY
        """Why it is not open."""
        self._seen = Seen()
        self._loop: asyncio.AbstractEventLoop
        self._opened: Opened | None = None
        self._fresh: Opened | None = None
        """What the thread that writes has opened last."""
        self._closing: asyncio.Future[None] | None = None
        """The last time that it was closed."""
        self._before: Opened | None = None
        """What was open before, and is closed."""
        self._writing = Thread("sqlite-write")
        self._reading = Thread("sqlite-read")

    @property
    def folder(self) -> Path:
        """Where the sockets of workers are. Raises :class:`FileError` while the file is not open."""
        return self._now().claim.folder

    async def open(self) -> None:
        """Open it. Raises :class:`FileError`, OSError and sqlite3's errors."""
        self.lost.clear()
        self._loop = asyncio.get_running_loop()
        try:
            self._opened = await self._writing.run(self._open)
        except asyncio.CancelledError:
            self._writing.run(self._close_unused)
            raise
        self._seen.note()
        self.is_open.set()

    async def close(self) -> None:
        """Close it after what is under way. Never raises; if cancelled, or after a while, the threads go on alone."""
        opened, self._opened = self._opened, None
        self.is_open.clear()
        if opened is not None:
            self._before = opened
            is_read = threading.Event()
            self._reading.run(partial(_close_reader, opened, is_read))
            self._closing = self._writing.run(partial(_close, opened, is_read))
        if self._closing is not None:
            await asyncio.wait((self._closing,), timeout=_CLOSE_SECONDS)

    async def end(self) -> None:
        """Close it for good, after what is under way. Never raises."""
        await self.close()
        if self._before is not None:
            self._before.claim.release()
        for thread in (self._reading, self._writing):
            thread.end()

    def writes(
        self, function: Callable[[Opened], _Result], late: Callable[[_Result], object] | None = None
    ) -> asyncio.Future[_Result]:
        """Run a function in the thread that writes. The future raises what it raises, and :class:`FileError`.

        ``late`` is called with what it returns if the future is done before.
        """
        return self._writing.run(partial(self._run, function), late)

    def reads(self, function: Callable[[sqlite3.Connection, Present], _Result]) -> asyncio.Future[_Result]:
        """Run a function in the thread that reads, in one snapshot of the log; otherwise as :meth:`writes`.

        The future raises :class:`WentBackError` if the log has gone back.
        """
        return self._reading.run(partial(self._run, partial(_in_snapshot, function)))

    async def check(self) -> None:
        """Raise :class:`FileError` unless the path leads to the file that is open, and only this machine uses it."""
        await self._reading.run(partial(self._run, lambda opened: opened.claim.check(opened.identity)))
        if self.lost.is_set():
            msg = f"{self.path}: the file failed, and is opened again"
            raise FileError(msg)

    def saw(self, commits: int) -> None:
        """Learn that the log has so many commits."""
        if self._opened is not None:
            self._opened.seen = max(self._opened.seen, commits)

    def _open(self) -> Opened:
        self._fresh = None
        self._fresh = open_file(self.path, self._before, may_create=not self._seen)
        return self._fresh

    def _close_unused(self) -> None:
        """Close what was opened for nobody."""
        if self._fresh is not None:
            self._fresh.close()
            self._fresh.claim.release()

    def _now(self) -> Opened:
        if self._opened is None:
            raise FileError(self.reason)
        return self._opened

    def _run(self, function: Callable[[Opened], _Result]) -> _Result:
        opened = self._now()
        try:
            opened.check()
            return function(opened)
        except Exception as error:
            if is_over(error.__cause__ or error):
                self._loop.call_soon_threadsafe(self.lost.set)
            raise


def _close_reader(opened: Opened, is_done: threading.Event) -> None:
    try:
        opened.reader.close()
    finally:
        is_done.set()


def _close(opened: Opened, is_read: threading.Event) -> None:
    """Close the file in the thread that writes, after the one that reads has let go of it."""
    is_read.wait()
    with contextlib.suppress(sqlite3.Error, OSError):
        opened.close()


def _in_snapshot(function: Callable[[sqlite3.Connection, Present], _Result], opened: Opened) -> _Result:
    seen, connection = opened.seen, opened.reader
    connection.execute("BEGIN")
    try:
        present = epoch.read(connection)
        opened.see(present, seen)
        return function(connection, present)
    finally:
        connection.execute("COMMIT")
