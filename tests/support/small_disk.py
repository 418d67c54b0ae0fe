"""A disk that can be full: a small file system of its own for the data of a test's PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import Self

from tests.support.postgres import account

SIZE = 64 * 2**20
"""Bytes of it: some databases, and their indexes."""

SHARED = Path("/dev/shm")  # noqa: S108 — a file system that exists, not a file that one foresees
"""Where nothing may be mounted: what containers have of 64 MiB by default."""

LARGEST = 2**30
"""Bytes of memory that a ballast may take there."""


class SmallDisk:
    """A small file system; a context manager. ``path`` belongs to the account that servers run as.

    It is mounted, by root or by ``sudo``. Where neither may, it is a folder of a small one that exists.
    """

    def __enter__(self) -> Self:
        """Make it."""
        self.path = Path(tempfile.mkdtemp(prefix="abide-disk-"))
        self._unmount = _mount(self.path)
        if not self._unmount:
            self.path.rmdir()
            size = shutil.disk_usage(SHARED).total
            assert size <= LARGEST, f"cannot mount a small disk, and {SHARED} has {size:,} bytes: too many to fill"
            self.path = Path(tempfile.mkdtemp(prefix="abide-disk-", dir=SHARED))
        self.data = self.path / "data"
        self.data.mkdir()
        uid, gid = account()
        if uid is not None and gid is not None:
            os.chown(self.data, uid, gid)
        self.path.chmod(0o755)
        self._finalizer = weakref.finalize(self, _dispose, self.path, self._unmount, os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        """Free it and delete what is on it."""
        self._finalizer()

    def fill(self) -> None:
        """Leave no byte free."""
        ballast = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (2**20, 2**12, 1):
                block = bytes(size)
                try:
                    while os.write(ballast, block):
                        pass
                except OSError:
                    continue
        finally:
            os.close(ballast)

    def free(self) -> None:
        """Let there be room again."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


def _mount(path: Path) -> list[str]:
    """Mount a small file system; return the command that ends it, or nothing where it is not allowed."""
    for via in ([], ["sudo", "-n"]):
        if via and shutil.which(via[0]) is None:
            continue
        owner = f"uid={os.getuid()},gid={os.getgid()}"
        command = [*via, "mount", "-t", "tmpfs", "-o", f"size={SIZE},{owner}", "tmpfs", str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return [*via, "umount", "--lazy", str(path)]
    return []


def _dispose(path: Path, unmount: list[str], creator: int) -> None:
    if os.getpid() != creator:  # A forked child has this finaliser too.
        return
    if unmount:
        subprocess.run(unmount, capture_output=True, check=True)
        path.rmdir()
    else:
        shutil.rmtree(path)
