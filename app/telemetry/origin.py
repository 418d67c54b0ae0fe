"""When, and in which process, a log line was written."""

from __future__ import annotations

import os
import time

_SECOND = 1_000_000_000


class _Process:
    """This process's id, read once: a system call for each line costs too much."""

    def __init__(self) -> None:
        self.look()
        os.register_at_fork(after_in_child=self.look)

    def look(self) -> None:
        self.id = os.getpid()


process = _Process()


class _Clock:
    """Tells the time in ISO 8601, UTC; it formats each second only once."""

    def __init__(self) -> None:
        self._second = (-_SECOND, "")
        """When the second began, in nanoseconds since the Unix epoch, and how the text of a time in it begins."""

    def now(self) -> str:
        now = time.time_ns()
        begun, text = self._second
        since = now - begun
        if not 0 <= since < _SECOND:
            since = now % _SECOND
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(now // _SECOND))
            self._second = (now - since, text)
        return f"{text}{'%06d' % (since // 1000)}Z"  # noqa: UP031 — in half the time of an f-string


clock = _Clock()
