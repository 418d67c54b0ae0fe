"""The turn to write. SQLite lets one worker write at a time, and others would have to try again and again.

So workers take turns by a lock of the system, in whose queue they sleep until it is free. A worker that dies gives it
back. It orders workers and protects nothing: SQLite's own lock does, also from programs that know nothing of turns.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_NAME = "turn"


class Turn:
    """One worker's place in the queue; the lock is a file in ``folder``. For one thread."""

    def __init__(self, folder: Path) -> None:
        self._lock = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave the queue for good."""
        os.close(self._lock)
