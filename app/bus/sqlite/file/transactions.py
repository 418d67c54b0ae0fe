"""Transactions that write: one at a time over all workers, so each waits for its turn.

SQLite's own wait sleeps for up to 25 ms at the least, which is longer than some commits of others take.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator

from app.bus.sqlite.file.file_faults import is_locked

PATIENCE_SECONDS = 3.0
"""How long a transaction of the server's own, such as the retention's, waits for its turn."""

_SHORTEST_SLEEP, _LONGEST_SLEEP, _GROWTH = 0.0001, 0.01, 1.3
"""Seconds between two attempts, and their growth: small while other workers commit, which takes them a millisecond."""


def begin(connection: sqlite3.Connection, waits: Callable[[sqlite3.OperationalError], object]) -> None:
    """Begin a transaction that writes as soon as nobody else has one.

    ``waits`` is called with the reason before each further attempt; it may raise. Raises sqlite3's errors.
    """
    sleep = _SHORTEST_SLEEP
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
            waits(error)
        else:
            return
        time.sleep(sleep)
        sleep = min(_GROWTH * sleep, _LONGEST_SLEEP)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Begin a transaction within so many seconds; commit it at the end, or undo it if that raises."""
    deadline = time.monotonic() + seconds

    def wait(error: sqlite3.OperationalError) -> None:
        if time.monotonic() > deadline:
            raise error

    begin(connection, wait)
    try:
        yield
        connection.execute("COMMIT")
    finally:
        undo(connection)


def undo(connection: sqlite3.Connection) -> None:
    """Undo the transaction if one is open. Never raises: an error before has undone it as well."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
