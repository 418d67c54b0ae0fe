"""gunicorn's master: what was checked at start holds for as long as it runs, whatever signal comes.

Its settings are those of the start. A signal that would undo them has no effect, and one line of the log says why.
"""

from __future__ import annotations

import signal
import time
from typing import ClassVar

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

_STEP = 0.1
"""Seconds between two looks at workers that are ending."""

_REMINDED = 1.0
"""Seconds after which a worker is told again to end: one that is just beginning does not hear the signal."""

_SAME = 1.5
"""Seconds within which a worker takes a second SIGTERM for the first; later ones cut its drain short."""


class Master(Arbiter):
    """The process that starts workers, and starts others for those that end."""

    # A terminal sends SIGWINCH whenever its window changes: it means nothing here, and is not caught.
    SIGNALS = [number for number in Arbiter.SIGNALS if number != signal.SIGWINCH]  # noqa: RUF012 — declared so by gunicorn

    log: Logger
    most_workers: ClassVar[int | None] = None
    """How many workers can serve the settings; None for any number."""

    _asked: ClassVar[dict[int, float]] = {}
    """When workers were asked to end, by process id."""

    @classmethod
    def take_over(cls, arbiter: Arbiter, most_workers: int | None) -> None:
        """Make a master of the arbiter that gunicorn has made: gunicorn has no setting for its class."""
        cls.most_workers = most_workers
        arbiter.__class__ = cls

    def handle_ttin(self) -> None:
        """SIGTTIN: add a worker, if the backend is one that workers can share."""
        if self.most_workers is not None and self.num_workers >= self.most_workers:
            self._has_no_effect("TTIN", "memory:// lives in one process, and so has one worker: set DATABASE_URL")
        else:
            super().handle_ttin()

    def handle_ttou(self) -> None:
        """SIGTTOU: take a worker away, but the last one."""
        if self.num_workers <= 1:
            self._has_no_effect("TTOU", "there is one worker left, which is the least")
        else:
            super().handle_ttou()

    def handle_usr2(self) -> None:
        """SIGUSR2: nothing; gunicorn would start a second master beside this one."""
        self._has_no_effect("USR2", "for a new version start a new process, then stop this one")

    def kill_worker(self, pid: int, sig: int) -> None:
        """Signal a worker, but ask none again that drains: gunicorn asks every second while there are too many."""
        if sig == signal.SIGTERM:
            now = time.monotonic()
            for ended in self._asked.keys() - self.WORKERS.keys():
                del self._asked[ended]
            if _SAME < now - self._asked.setdefault(pid, now) < self.cfg.graceful_timeout:
                return
        super().kill_worker(pid, sig)

    def reload(self) -> None:
        """SIGHUP: replace the workers.

        Where they share a backend, the new ones begin before the old ones drain. Where the backend is one worker's
        own, that worker ends first, at once: were there two, each would have a log of its own, and who publishes to
        one would not be heard by who subscribes to the other. Who connects meanwhile waits in the listener's queue.
        """
        self.log.reopen_files()
        if self.most_workers is None:
            for _ in range(self.num_workers):
                self.spawn_worker()
        else:
            self._end_workers()
        self.manage_workers()

    def _end_workers(self) -> None:
        """End all workers, and return when there is none."""
        deadline, reminded = time.monotonic() + self.cfg.graceful_timeout, 0.0
        while self.WORKERS:
            now = time.monotonic()
            if now >= reminded + _REMINDED:
                reminded = now
                self.kill_workers(signal.SIGQUIT if now < deadline else signal.SIGKILL)
            time.sleep(_STEP)
            self.reap_workers()
            self.murder_workers()

    def _has_no_effect(self, name: str, reason: str) -> None:
        self.log.warning("%s has no effect: %s", name, reason)
