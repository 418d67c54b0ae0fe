"""The directory of the workers' numbers, which lives as long as gunicorn's master."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that holds its path; ``prometheus_client`` reads it at import."""

_PREFIX = "abide-metrics-"


def make_directory(parent: str | None) -> str:
    """Make an empty directory, and remove it when this process exits.

    A killed process leaves its directory behind. Processes lock theirs while they live, so a directory
    without a lock is removed here.
    """
    parent = parent or tempfile.gettempdir()
    for left in Path(parent).glob(f"{_PREFIX}*"):
        if (descriptor := _lock(str(left), fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    while True:
        directory = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        _lock(directory, fcntl.LOCK_SH)  # until this process and its workers have ended
        if Path(directory).is_dir():  # nobody removed it before it was locked
            break
    atexit.register(_remove, directory, os.getpid())
    return directory


def _lock(directory: str, how: int) -> int | None:
    """Return the descriptor that holds the lock; None if it cannot be taken."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(directory: str, master: int) -> None:
    if os.getpid() == master:  # not a worker, which inherits this handler
        shutil.rmtree(directory, ignore_errors=True)
