"""Opens the file: connections with our settings, whatever the library's defaults are."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from app.bus.sqlite import epoch
from app.bus.sqlite.file.claim import Claim, Identity, identify
from app.bus.sqlite.file.file_faults import ElsewhereError, FileError, ReplacedError, WentBackError
from app.bus.sqlite.file.location import misplaced
from app.bus.sqlite.file.steps import prepare
from app.bus.sqlite.file.turn import Turn

_LOCK_SECONDS = 0.25
"""How long reads, and what is done when the file is opened, wait for a lock."""

WAL_BYTES = 64 * 1024 * 1024
"""What the write-ahead log keeps of the disk at rest."""

_CHECKPOINT_PAGES = 4000
"""Pages of the write-ahead log after which a commit moves them into the file: 16 MiB."""

_SETTLE_SECONDS = 0.5
"""A file that took another's place must not have changed for this long, because somebody may still be copying it."""


@dataclass(slots=True)
class Opened:
    """The file as one worker has it open: a connection that writes and one that reads, each for one thread."""

    path: Path
    identity: Identity
    claim: Claim
    turn: Turn
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    seen: int
    """How many commits the log had at least. Transactions that begin later see as many, or the log has gone back."""

    def check(self) -> None:
        """Raise :class:`ReplacedError` unless the path still leads to the file that is open."""
        found = identify(self.path)
        if found != self.identity:
            what = "deleted" if found is None else "replaced"
            msg = f"{self.path}: the file was {what} while the server ran"
            raise ReplacedError(msg)

    def see(self, present: epoch.Present, seen: int) -> None:
        """Learn what a transaction has read; ``seen`` is what was known before it began.

        Raises :class:`WentBackError` if the log has gone back.
        """
        if epoch.is_over(present, seen):
            msg = f"{self.path}: the log has gone back to an earlier state, or was changed by hand"
            raise WentBackError(msg)
        self.seen = max(self.seen, present.commits)

    def close(self) -> None:
        """Close it, but keep the claim: the last worker that does so moves the write-ahead log into the file."""
        for part in (self.reader, self.writer, self.turn):
            part.close()


def open_file(path: Path, before: Opened | None, *, may_create: bool) -> Opened:
    """Open the file for this worker; the first one begins an epoch. ``before`` is what it had open, and has closed.

    A worker that opens the same file again has kept its claim, so no epoch begins.
    Raises :class:`FileError`, OSError and sqlite3's errors.
    """
    if message := misplaced(path):
        raise FileError(message)
    claim, is_first = _claim(path, before)
    try:
        identity = _find(path, before, may_create=may_create)
        if identity is not None and not is_first:
            claim.check(identity)
        if identity is not None and is_first:
            _remove_log_of_another(path, claim, identity)
        seen = 0 if before is None else before.seen
        opened = _connect(path, claim, seen, is_first=is_first, may_create=may_create)
    except BaseException:
        if before is None or claim is not before.claim:
            claim.release()
        raise
    if identity not in {None, opened.identity}:
        opened.close()
        claim.release()
        msg = f"{path}: the file was replaced while it was opened"
        raise ReplacedError(msg)
    return opened


def _claim(path: Path, before: Opened | None) -> tuple[Claim, bool]:
    """Return a claim on the file that is there, and whether nobody else has one."""
    if before is not None and before.claim.is_held:
        try:
            if identify(path) == before.identity:
                before.claim.check(before.identity)
                return before.claim, False
        except ElsewhereError:
            raise
        except FileError:
            pass
        before.claim.release()
    claim = Claim(path)
    return claim, claim.take()


def _find(path: Path, before: Opened | None, *, may_create: bool) -> Identity | None:
    """Return which file is there; None if there is none and one may be created."""
    identity = identify(path)
    if identity is None or not path.stat().st_size:
        if may_create:
            return identity
        what = "was deleted" if identity is None else "was emptied"
        msg = f"{path} {what} while the server ran: put a copy back, or restart the server to begin an empty log"
        raise FileError(msg)
    if before is not None and before.identity != identity:
        found = path.stat()
        time.sleep(_SETTLE_SECONDS)
        again = path.stat()
        if (found.st_ino, found.st_size, found.st_mtime_ns) != (again.st_ino, again.st_size, again.st_mtime_ns):
            msg = f"{path}: the file was replaced and is still being written"
            raise FileError(msg)
    return identity


def _remove_log_of_another(path: Path, claim: Claim, identity: Identity) -> None:
    """Remove the write-ahead log that was left of another file, or SQLite would read it into this one."""
    if claim.has_log_of_another(identity, identify(_wal(path))):
        _wal(path).unlink(missing_ok=True)
        Path(f"{path}-shm").unlink(missing_ok=True)


def _wal(path: Path) -> Path:
    return Path(f"{path}-wal")


def _connect(path: Path, claim: Claim, seen: int, *, is_first: bool, may_create: bool) -> Opened:
    writer = _connection(path, "rwc" if may_create and is_first else "rw")
    reader: sqlite3.Connection | None = None
    turn: Turn | None = None
    try:
        writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file only: others stay as they are
        _keep_log(writer, path)
        prepare(writer, path)
        if is_first or epoch.is_over(epoch.read(writer), seen):
            seen = epoch.begin(writer, seen).commits
        reader = _connection(path, "rw")
        reader.execute("PRAGMA query_only = ON")
        turn = Turn(claim.folder)
        identity = _identity(path)
        writer.execute("PRAGMA busy_timeout = 0")  # transactions.py waits
        if is_first:
            claim.share(identity, identify(_wal(path)))
    except BaseException:
        for part in (reader, writer, turn):
            if part is not None:
                part.close()
        raise
    return Opened(path, identity, claim, turn, writer, reader, seen)


def _keep_log(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        msg = f"{path}: SQLite cannot keep a write-ahead log there: use a disk of this machine"
        raise FileError(msg)


def _identity(path: Path) -> Identity:
    identity = identify(path)
    if identity is None:
        msg = f"{path}: the file was deleted while it was opened"
        raise ReplacedError(msg)
    return identity


def _connection(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fspath(path.absolute()))}?mode={mode}",
        uri=True, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False,
    )  # fmt: skip
    try:
        for pragma in (
            "synchronous = FULL",  # each commit is on the disk before it is answered
            "fullfsync = ON",  # on macOS, where fsync alone leaves it in the disk's memory
            "checkpoint_fullfsync = ON",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            f"journal_size_limit = {WAL_BYTES}",
            "secure_delete = FAST",  # some libraries write all over what is deleted, as much as was stored
            "cell_size_check = ON",
            "trusted_schema = OFF",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
