"""Who uses the file: workers of one machine, all of the same file. A lock tells whether nobody did before.

Beside the file is a folder, ``<file>-workers``, with a lock file and the sockets of ``app/bus/sqlite/wakeups.py``. Each
worker shares the lock while it has the file open. Whoever gets it alone is the first one: since nobody had the file
open before, it may have been restored or copied meanwhile, and an epoch begins. The lock file says which machine the
workers run on, and which file they use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from app.bus.sqlite.file.file_faults import ElsewhereError, FileError, ReplacedError

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PATIENCE_SECONDS = 3.0
"""How long to wait for a worker that is opening the file."""
_LOOK_SECONDS = 0.01
_LOCK = "lock"


class Identity(NamedTuple):
    """Which file it is, whatever its path. It cannot be given to another while somebody has it open."""

    device: int
    inode: int


def identify(path: Path) -> Identity | None:
    """Return which file is at the path; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 — pathlib's takes three times as long, and each commit looks
    except FileNotFoundError:
        return None
    return Identity(found.st_dev, found.st_ino)


class Claim:
    """A worker's share in the file at ``path``."""

    def __init__(self, path: Path) -> None:
        self.folder = Path(f"{path}-workers")
        self._path = path
        self._lock = -1

    @property
    def is_held(self) -> bool:
        """Whether this worker has a share."""
        return self._lock >= 0

    def take(self) -> bool:
        """Take a share; return whether nobody else has one. Raises :class:`FileError` and OSError."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for way in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._lock, way | fcntl.LOCK_NB)
                    if self._is_there():
                        return way == fcntl.LOCK_EX
            self.release()
            if time.monotonic() > deadline:
                msg = f"{self._path}: another worker is opening the file"
                raise FileError(msg)
            time.sleep(_LOOK_SECONDS)

    def share(self, identity: Identity, wal: Identity | None) -> None:
        """Let others take shares in the file of this identity, after :meth:`take` has returned True.

        ``wal`` is the identity of its write-ahead log.
        """
        os.ftruncate(self._lock, 0)
        text = f"{_machine()} {socket.gethostname()}\n{_written(identity)}\n{_written(wal)}\n"
        os.pwrite(self._lock, text.encode(), 0)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def has_log_of_another(self, identity: Identity, wal: Identity | None) -> bool:
        """Whether a write-ahead log was left by workers of another file, which had this path before."""
        _, file, log = self._read()
        return wal is not None and file not in {"", _written(identity)} and log == _written(wal)

    def check(self, identity: Identity) -> None:
        """Raise :class:`FileError` unless all who have a share run on this machine, and use the file of this identity.

        Raises :class:`ReplacedError` if the file is another one, and :class:`ElsewhereError` for another machine.
        """
        if not self._is_there():
            msg = f"{self.folder}: the folder by which workers find each other was removed"
            raise FileError(msg)
        machine, file, _ = self._read()
        boot, _, host = machine.partition(" ")
        if boot != _machine():
            msg = (
                f"{self._path}: another machine ({host}) has opened it: stop one of the two servers and start the "
                "other again, or use postgres:// for several machines"
            )
            raise ElsewhereError(msg)
        if file != _written(identity):
            msg = f"{self._path}: the file was replaced: waiting until every worker has let go of the one before"
            raise ReplacedError(msg)

    def release(self) -> None:
        """Give the share back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _read(self) -> tuple[str, str, str]:
        """Return the machine, the file and its write-ahead log, as the lock file has them."""
        lines = os.pread(self._lock, 1024, 0).decode(errors="replace").split("\n")
        machine, file, log, *_ = [*lines, "", "", ""]
        return machine, file, log

    def _is_there(self) -> bool:
        """Whether the lock is the one that others find."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self.folder / _LOCK), os.fstat(self._lock))  # noqa: PTH116 — as above
        return False


def _machine() -> str:
    """Return the name of this life of this machine. Containers of one machine have the same."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:  # it is not Linux
        return socket.gethostname()


def _written(identity: Identity | None) -> str:
    return "" if identity is None else f"{identity.device}:{identity.inode}"
