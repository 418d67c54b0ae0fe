"""The schema in numbered steps, which servers apply when they open the file; PRAGMA user_version counts them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from app.bus.sqlite.file.file_faults import FileError

_APPLICATION = 0x41626964
"""PRAGMA application_id of our files: "Abid"."""

_LOG = (
    # The present epoch, and what names begin with that have no head (docs/design/epochs.md). `commits` counts every
    # commit, so that a worker knows what it has not heard of. `probe` is written to find out whether there is room.
    """
    CREATE TABLE installation (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        name TEXT NOT NULL, first TEXT NOT NULL, lineage TEXT NOT NULL,
        floor INTEGER NOT NULL DEFAULT 0, commits INTEGER NOT NULL DEFAULT 0, probe BLOB
    )
    """,
    "INSERT INTO installation (one, name, first, lineage) VALUES (1, '', '', '')",
    # Numbers of channels never come twice, or a new name could take the messages of one that was deleted by hand.
    """
    CREATE TABLE head (
        id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL UNIQUE,
        head INTEGER NOT NULL, time INTEGER NOT NULL, lineage TEXT NOT NULL
    )
    """,
    # `n` messages up to the offset `last`, with U+001E between them. The channel is its number in head.
    """
    CREATE TABLE log (
        channel INTEGER NOT NULL, last INTEGER NOT NULL, n INTEGER NOT NULL, time INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (channel, last)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE key (
        channel TEXT NOT NULL, key TEXT NOT NULL, hash BLOB NOT NULL, position INTEGER NOT NULL, time INTEGER NOT NULL,
        PRIMARY KEY (channel, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX key_time ON key (time)",
    # No offset comes twice in an epoch, whoever deletes or lowers a head.
    """
    CREATE TRIGGER head_deleted AFTER DELETE ON head BEGIN
        UPDATE installation
        SET floor = OLD.head, lineage = name || 'N' || (OLD.head + 1) || 'P' || first
        WHERE floor < OLD.head;
    END
    """,
    """
    CREATE TRIGGER head_lowered AFTER UPDATE OF head ON head WHEN NEW.head < OLD.head BEGIN
        UPDATE installation SET name = '';
    END
    """,
)

_STEPS = (_LOG,)
"""Each is applied in one transaction. Add steps at the end, and never change one that was released."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file up to date. Raises :class:`FileError` if it is not ours, or of a later version, and sqlite3's."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != _APPLICATION and (tables or version or application):
        msg = f"{path} is a database of another program: name another file"
        raise FileError(msg)
    if version > len(_STEPS):
        msg = (
            f"{path} was written by a later version of Abide (schema {version}; this one knows {len(_STEPS)}): "
            "run that version"
        )
        raise FileError(msg)
    if version == len(_STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()  # another may have been faster
        for step in _STEPS[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(_STEPS)}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
