"""When a clock is believed, by which messages would be deleted. Engines share it."""

from __future__ import annotations

import time

_JUMP_SECONDS = 60.0
"""No clock drifts by more than this. A clock that has jumped further must keep its new time for this long."""


class Clock:
    """Tells when to trust a wall's clock: one that jumps for a moment must not delete young messages."""

    def __init__(self) -> None:
        self._offset: float | None = None
        """Its seconds minus those of our monotonic clock; None before it was seen."""
        self._since = 0.0

    def believes(self, now: float) -> bool:
        """Whether ``now``, in seconds since 1970, continues what was seen before, or has lasted since a jump.

        The first time is compared with the clock of this machine.
        """
        offset = now - time.monotonic()
        if self._offset is None and abs(now - time.time()) < _JUMP_SECONDS:
            self._offset, self._since = offset, time.monotonic() - _JUMP_SECONDS
        elif self._offset is None or abs(offset - self._offset) > _JUMP_SECONDS:
            self._offset, self._since = offset, time.monotonic()
        return time.monotonic() - self._since >= _JUMP_SECONDS
