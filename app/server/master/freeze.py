"""A machine that was frozen: paused, suspended, or stopped by a signal, with all its processes.

gunicorn's master replaces a worker that has shown no life for its timeout. After a freeze that is every worker, though
none of them hangs, and with a worker goes all that it holds: its connections, and the log of ``memory://``. A master
that was frozen itself knows it by its own loop, which is late, and gives every worker the whole timeout again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gunicorn.arbiter import Arbiter

LATE_SECONDS = 3.0
"""Between two looks of a master at its workers, where it was not frozen: it looks every second."""


class Watch:
    """Looks for workers that hang, unless the master was frozen a short while ago."""

    def __init__(
        self,
        look: Callable[[], None],
        timeout: Callable[[], float],
        woken: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``look`` ends who hangs; ``timeout`` returns seconds; ``woken`` is told how long a freeze has lasted."""
        self._look = look
        self._timeout = timeout
        self._woken = woken
        self._clock = clock
        self._last = clock()
        self._patient_until = self._last

    def __call__(self) -> None:
        """Look, or give everybody time to show that it lives."""
        now = self._clock()
        late, self._last = now - self._last, now
        if late > LATE_SECONDS:
            self._patient_until = now + self._timeout()
            self._woken(late)
        if now >= self._patient_until:
            self._look()


def outlive_freezes(arbiter: Arbiter) -> None:
    """Let a master's workers outlive a freeze."""
    log = arbiter.log
    assert log is not None  # noqa: S101 — it has begun

    def woken(seconds: float) -> None:
        log.warning("The machine was frozen for %.0f s: workers have %d s to go on", seconds, arbiter.timeout)

    watch = Watch(arbiter.murder_workers, lambda: arbiter.timeout, woken)
    arbiter.murder_workers = watch  # type: ignore[method-assign] # gunicorn has no hook for it
