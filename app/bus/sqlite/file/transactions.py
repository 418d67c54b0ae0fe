"""Transactions that write: one at a time over all workers, so each waits for its turn."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator

from app.bus.sqlite.file.file_faults import is_locked
from app.bus.sqlite.file.open_file import Opened

PATIENCE_SECONDS = 3.0
"""How long a transaction of the server's own, such as the retention's, waits for another program's lock."""

_SLEEP_SECONDS = 0.005
"""Between two attempts while another program has the lock; SQLite's own wait sleeps for 25 ms and more."""

Waits = Callable[[sqlite3.OperationalError], object]
"""Is told why the file is locked before each further attempt; it may raise."""


@contextlib.contextmanager
def turn(opened: Opened, waits: Waits) -> Iterator[sqlite3.Connection]:
    """Begin a transaction that writes when its turn has come and no other program has one; undo it unless committed.

    Raises what ``waits`` raises, and sqlite3's errors.
    """
    with opened.turn:
        _begin(opened.writer, waits)
        try:
            yield opened.writer
        finally:
            _undo(opened.writer)


@contextlib.contextmanager
def transaction(opened: Opened, seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Begin a transaction within so many seconds; commit it at the end, or undo it if that raises."""
    deadline = time.monotonic() + seconds

    def wait(error: sqlite3.OperationalError) -> None:
        if time.monotonic() > deadline:
            raise error

    with turn(opened, wait) as connection:
        yield
        connection.commit()


def _begin(connection: sqlite3.Connection, waits: Waits) -> None:
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
            waits(error)
        else:
            return
        time.sleep(_SLEEP_SECONDS)


def _undo(connection: sqlite3.Connection) -> None:
    """Undo the transaction if one is open. Never raises: an error before has undone it as well."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
