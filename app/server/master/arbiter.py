"""gunicorn's master: what was checked at the start stays true until it ends, whatever signal comes.

Its settings never change. A signal that would change them has no effect, and a log line says why.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import ClassVar

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

_STEP = 0.1
"""Seconds between two looks at workers that are ending."""

_REMINDED = 1.0
"""Seconds after which a worker is told again to end: one that is just starting misses the signal."""

_SAME = 1.5
"""Seconds within which a worker takes a second SIGTERM for the same stop; a later one cuts its drain short."""


class Master(Arbiter):
    """The process that starts workers, and replaces those that end."""

    # A terminal sends SIGWINCH whenever its window changes: it is not caught.
    SIGNALS = [number for number in Arbiter.SIGNALS if number != signal.SIGWINCH]  # noqa: RUF012 — declared so by gunicorn

    log: Logger
    most_workers: ClassVar[int | None] = None
    """How many workers the backend allows; None for any number."""

    at_terminal: ClassVar[bool] = False
    """Whether the server was started at a terminal."""

    _asked: ClassVar[dict[int, float]] = {}
    """When workers were asked to end, by process id."""

    @classmethod
    def take_over(cls, arbiter: Arbiter, most_workers: int | None) -> None:
        """Make gunicorn's arbiter one of this class, for which gunicorn has no setting."""
        cls.most_workers = most_workers
        cls.at_terminal = sys.stdout.isatty()
        arbiter.__class__ = cls

    def handle_hup(self) -> None:
        """SIGHUP: replace the workers; or stop, if it comes because the terminal was closed."""
        if self.at_terminal and not sys.stdout.isatty():
            self.handle_int()
        super().handle_hup()

    def handle_ttin(self) -> None:
        """SIGTTIN: add a worker, if workers can share the backend."""
        if self.most_workers is not None and self.num_workers >= self.most_workers:
            self._has_no_effect("TTIN", "memory:// lives in one process, so it allows one worker; set DATABASE_URL")
        else:
            super().handle_ttin()

    def handle_ttou(self) -> None:
        """SIGTTOU: end a worker, unless it is the last one."""
        if self.num_workers <= 1:
            self._has_no_effect("TTOU", "only one worker is left")
        else:
            super().handle_ttou()

    def handle_usr2(self) -> None:
        """SIGUSR2: do nothing; gunicorn would start a second master."""
        self._has_no_effect("USR2", "to run a new version, start a new process, then stop this one")

    def kill_worker(self, pid: int, sig: int) -> None:
        """Signal a worker, but only once if it drains: gunicorn repeats the signal every second."""
        if sig == signal.SIGTERM:
            now = time.monotonic()
            for ended in self._asked.keys() - self.WORKERS.keys():
                del self._asked[ended]
            if _SAME < now - self._asked.setdefault(pid, now) < self.cfg.graceful_timeout:
                return
        super().kill_worker(pid, sig)

    def reload(self) -> None:
        """SIGHUP: replace the workers.

        If they share a backend, the new ones start before the old ones drain. With ``memory://`` the worker ends first,
        and at once: two workers would have two logs, and subscribers of one would miss what is published to the other.
        New connections wait in the listener's queue meanwhile.
        """
        self.log.reopen_files()
        if self.most_workers is None:
            for _ in range(self.num_workers):
                self.spawn_worker()
        else:
            self._end_workers()
        self.manage_workers()

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 — gunicorn's own
        """End all workers. That a worker was ended by a signal is then worth no warning."""
        self.log.error_log.addFilter(_is_unexpected)
        super().stop(graceful)

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


def _is_unexpected(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING or not str(record.msg).startswith("Worker (pid:%s) was sent")
