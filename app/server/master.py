"""gunicorn's master: what was checked at start holds for as long as it runs, whatever signal comes.

Its settings are those of the start. A signal that would undo them has no effect, and one line of the log says why.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import ClassVar

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

_STEP = 0.1
"""Seconds between two looks at workers that are ending."""

_REMINDED = 1.0
"""Seconds after which a worker is told again to end: one that is just beginning does not hear the signal."""


class Master(Arbiter):
    """The process that starts workers, and starts others for those that end."""

    # A terminal sends SIGWINCH whenever its window changes: it means nothing here, and is not caught.
    SIGNALS = [number for number in Arbiter.SIGNALS if number != signal.SIGWINCH]  # noqa: RUF012 — declared so by gunicorn

    log: Logger
    most_workers: ClassVar[int | None] = None
    """How many workers can serve the settings; None for any number."""

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

    def reload(self) -> None:
        """SIGHUP: replace the workers.

        Where they share a backend, the new ones begin before the old ones drain. Where the backend is one worker's
        own, that worker ends first, at once: were there two, each would have a log of its own, and who publishes to
        one would not be heard by who subscribes to the other. Who connects meanwhile waits in the listener's queue.
        """
        self.log.reopen_files()
        newest = self.worker_age
        if self.most_workers is None:
            for _ in range(self.num_workers):
                self.spawn_worker()
            self.manage_workers()
            self._await_end(newest, remind=lambda: None)
        else:
            self._await_end(newest, remind=lambda: self.kill_workers(signal.SIGQUIT))
            self.kill_workers(signal.SIGKILL)
            self._await_end(newest, remind=lambda: None)
            self.manage_workers()

    def _await_end(self, newest: int, *, remind: Callable[[], None]) -> None:
        """Wait for the end of workers that are not younger than ``newest``, for as long as a stop may take."""
        begun = time.monotonic()
        deadline, reminded = begun + self.cfg.graceful_timeout, begun - _REMINDED
        while any(worker.age <= newest for worker in self.WORKERS.values()) and time.monotonic() < deadline:
            if time.monotonic() >= reminded + _REMINDED:
                reminded = time.monotonic()
                remind()
            time.sleep(_STEP)
            self.reap_workers()
            self.murder_workers()

    def _has_no_effect(self, name: str, reason: str) -> None:
        self.log.warning("%s has no effect: %s", name, reason)
