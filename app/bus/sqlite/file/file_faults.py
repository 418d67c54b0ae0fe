"""What can be wrong with the file, in one line: what is wrong, where, and what to do."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from app.bus.outcomes import Wording
from app.core.errors import UnavailableError

WORDING = Wording(
    {
        "commit": "a commit",
        "listen": "the log's file",
        "poll": "a look at the heads",
        "read": "a read",
    },
    waits="s for the file",
    late="another program may hold a lock on it, or the disk may be slow",
)

NOT_READY = "the log's file is not ready: try again in a moment"
REFUSED = "the log's file cannot be written now: try again in a moment"
"""The text for clients. The reason contains paths, so only the log and readiness show it."""


class FileError(Exception):
    """The file cannot be used now; the text says why and what to do."""


class ReplacedError(FileError):
    """Another file has taken the path, or none: what was opened is not the log any more."""


class ElsewhereError(FileError):
    """Another machine has opened the file while this one had it."""


class WentBackError(FileError):
    """The file has an earlier state than this process has seen."""


_LOCKED = "another program holds a lock on it: end that program's transaction"
_NO_DATABASE = "restore a backup with the server stopped, or move the file away for an empty log"

_WHAT_TO_DO = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_FULL: "free some space on the disk, or add some",
    sqlite3.SQLITE_READONLY: "let the server's user write to the file and its folder, and mount the disk for writing",
    sqlite3.SQLITE_CANTOPEN: "let the server's user write to the folder, because SQLite keeps more files beside it",
    sqlite3.SQLITE_PERM: "let the server's user write to the file",
    sqlite3.SQLITE_NOTADB: _NO_DATABASE,
    sqlite3.SQLITE_CORRUPT: _NO_DATABASE,
    sqlite3.SQLITE_IOERR: "check the disk, its free space and its quotas (dmesg says more)",
    sqlite3.SQLITE_PROTOCOL: "its file system cannot lock: use a disk of this machine",
}
"""What to do, by the primary result code."""

_UNDONE = frozenset((sqlite3.SQLITE_IOERR_WRITE,))
"""Extended codes of the disk after which a transaction is known to be undone: no part of its end was written."""


def explain(error: BaseException, path: Path) -> str:
    """Say in one line what is wrong and what to do."""
    if isinstance(error, (FileError, UnavailableError)):
        return str(error)
    if isinstance(error, sqlite3.Error):
        to_do = _WHAT_TO_DO.get(primary(error))
        words = f"{path}: {error}" if not code(error) else f"{path}: {error} ({error.sqlite_errorname})"
        return f"{words}: {to_do}" if to_do else words
    if isinstance(error, TimeoutError):
        return f"{path}: no answer in time: {WORDING.late}"
    if isinstance(error, OSError):
        words = os.strerror(error.errno) if error.errno else str(error)
        return f"{error.filename or path}: {words}"
    return f"{path}: {str(error) or type(error).__name__}"


def code(error: BaseException) -> int:
    """Return SQLite's extended result code; 0 if the error has none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0)


def primary(error: BaseException) -> int:
    """Return SQLite's result code without what extends it."""
    return code(error) & 0xFF


def is_locked(error: BaseException) -> bool:
    """Whether another connection holds a lock, so that another attempt may work."""
    return primary(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_in_doubt(error: BaseException) -> bool:
    """Whether a COMMIT that raised this may be found done after a crash: its end may be on the disk."""
    return primary(error) == sqlite3.SQLITE_IOERR and code(error) not in _UNDONE


def is_over(error: BaseException) -> bool:
    """Whether the connection is of no more use after this error."""
    return isinstance(error, FileError) or primary(error) in {
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_PROTOCOL,
    }  # fmt: skip


def unavailable(error: BaseException) -> UnavailableError:
    """Return what clients are told of an error after which nothing was stored; its cause is the error."""
    refusal = UnavailableError(NOT_READY if isinstance(error, (FileError, UnavailableError, OSError)) else REFUSED)
    refusal.__cause__ = error
    return refusal
