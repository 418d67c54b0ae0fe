"""The present epoch, as a file keeps it: docs/design/epochs.md has the argument."""

from __future__ import annotations

import secrets
import sqlite3
from typing import NamedTuple

from app.core.epochs import NAME

_REMEMBERED = 600
"""The most characters of a lineage that go on: some thirty epochs. A name that is cut off is known to nobody."""


class Present(NamedTuple):
    """What a transaction has to know of the log."""

    name: str
    """The present epoch; empty if it is over, and the next commit begins another."""
    lineage: str
    """The lineage of a channel that has no head."""
    floor: int
    """The highest offset of a channel that was forgotten: names without a head begin after it."""
    commits: int
    """How many there were. It never goes back, unless the log does."""


def read(connection: sqlite3.Connection) -> Present:
    """Read it, in the transaction that is open."""
    row = connection.execute("SELECT name, lineage, floor, commits FROM installation").fetchone()
    return Present(*row)


def count(connection: sqlite3.Connection) -> Present:
    """Count a commit, and return what there is with it, in the transaction that is open."""
    row = connection.execute(
        "UPDATE installation SET commits = commits + 1 RETURNING name, lineage, floor, commits"
    ).fetchone()
    return Present(*row)


def begin(connection: sqlite3.Connection, seen: int) -> Present:
    """Begin an epoch, in a transaction of its own; see :func:`change`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        present = change(connection, seen)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return present


def is_over(present: Present, seen: int) -> bool:
    """Whether the epoch is over: ``seen`` commits are known, and the log has fewer, or a head was lowered by hand."""
    return not present.name or present.commits < seen


def change(connection: sqlite3.Connection, seen: int) -> Present:
    """Begin an epoch, in the transaction that is open, and count its commits on from ``seen``; return it."""
    name = secrets.token_hex(NAME // 2)
    connection.execute(
        "UPDATE installation SET name = :name, first = iif(first = '', :name, first),"
        " commits = max(commits, :seen) + 1,"
        " lineage = iif(first = '', :name, :name || 'N' || (floor + 1) || 'P' || first)",
        {"name": name, "seen": seen},
    )
    return read(connection)


def continued(lineage: str, head: int, newborn: str) -> str:
    """Return the lineage of a channel that goes on after ``head`` in the epoch that ``newborn`` begins with."""
    name = newborn[:NAME]
    if lineage[:NAME] == name or f"P{name}" in lineage:
        return lineage
    return f"{name}F{head + 1}P{lineage[:_REMEMBERED]}"
