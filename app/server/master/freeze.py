"""What the master does after a freeze: the machine, or the service, was paused with all its processes.

gunicorn's master replaces a worker that has shown no sign of life for its timeout. After a freeze that would be every
worker, although none of them hangs, and a worker takes all that it holds with it: its connections, and the log of
``memory://``. The master was frozen too, so its own loop is late. Then it gives every worker the whole timeout again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gunicorn.arbiter import Arbiter

LATE_SECONDS = 3.0
"""Seconds between two looks at the workers that mean a freeze: the master looks every second."""


class HangCheck:
    """Looks for workers that hang, unless the master was frozen a short while ago."""

    def __init__(
        self,
        look: Callable[[], None],
        timeout: Callable[[], float],
        woken: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``look`` ends workers that hang; ``timeout`` returns seconds; ``woken`` takes the seconds of a freeze."""
        self._look = look
        self._timeout = timeout
        self._woken = woken
        self._clock = clock
        self._last = clock()
        self._waits_until = self._last

    def __call__(self) -> None:
        """Look, or give workers time to show that they live."""
        now = self._clock()
        late, self._last = now - self._last, now
        if late > LATE_SECONDS:
            self._waits_until = now + self._timeout()
            self._woken(late)
        if now >= self._waits_until:
            self._look()


def outlive_freezes(arbiter: Arbiter) -> None:
    """Make a master's workers survive a freeze."""
    log = arbiter.log
    assert log is not None  # noqa: S101 — the master has set it by now

    def woken(seconds: float) -> None:
        log.warning("The machine was frozen for %.0f s: workers have %d s to go on", seconds, arbiter.timeout)

    check = HangCheck(arbiter.murder_workers, lambda: arbiter.timeout, woken)
    arbiter.murder_workers = check  # type: ignore[method-assign] # gunicorn has no hook for it
