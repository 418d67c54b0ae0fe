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
from gunicorn.workers.base import Worker

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

    _newest_old: int = 0
    """The age of the newest worker that is to be replaced; gunicorn counts workers, and calls the number age."""

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
            self._forget_ended()
            if _SAME < now - self._asked.setdefault(pid, now) < self.cfg.graceful_timeout:
                return
        super().kill_worker(pid, sig)

    def reload(self) -> None:
        """SIGHUP: replace the workers.

        If they share a backend, they are replaced one after another. With ``memory://`` the worker ends first, and at
        once: two workers would have two logs, and subscribers of one would miss what is published to the other. New
        connections wait in the listener's queue meanwhile.
        """
        self.log.reopen_files()
        if self.most_workers is None:
            self._newest_old = self.worker_age
        else:
            self._end_workers()
        self.manage_workers()

    def manage_workers(self) -> None:
        """Start workers that are missing, and end those that are too many; called once a second and when one ended.

        While workers are replaced, there is one more than otherwise: a new one that starts, or an old one that drains.
        """
        self._forget_ended()
        staying = {pid: worker for pid, worker in self.WORKERS.items() if pid not in self._asked}
        old = [
            (_is_serving(worker), worker.age, pid) for pid, worker in staying.items() if worker.age <= self._newest_old
        ]
        if not old:
            super().manage_workers()
            return
        for pid in list(self._asked):
            self.kill_worker(pid, signal.SIGTERM)
        is_serving, _, oldest = min(old)
        if len(self.WORKERS) <= self.num_workers:
            self.spawn_worker()
        elif not is_serving or sum(map(_is_serving, staying.values())) > self.num_workers:
            self.kill_worker(oldest, signal.SIGTERM)

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

    def _forget_ended(self) -> None:
        for ended in self._asked.keys() - self.WORKERS.keys():
            del self._asked[ended]

    def _has_no_effect(self, name: str, reason: str) -> None:
        self.log.warning("%s has no effect: %s", name, reason)


def _is_serving(worker: Worker) -> bool:
    return getattr(worker, "is_serving", True)  # a worker class of the user's own need not say it


def _is_unexpected(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING or not str(record.msg).startswith("Worker (pid:%s) was sent")
