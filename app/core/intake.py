"""How much of unfinished messages a process holds for all clients together.

A client that sends a large body slowly, or never ends it, makes the server keep what has come. One client's part is
bounded by the size of the message; this bounds the sum.
"""

from __future__ import annotations

SMALL = 64 * 1024
"""Bytes that one message may hold of the whole bound; a larger one has to leave :data:`RESERVE` free."""

TOTAL = 64 * 1024 * 1024
"""Bytes of all unfinished messages together, at most."""

RESERVE = 16 * 1024 * 1024
"""Bytes of the total that large messages cannot take, so that small ones are served while somebody holds the rest."""


class BoundedIntake:
    """Counts the bytes. Implements :class:`~app.core.ports.Intake`."""

    def __init__(self, total: int = TOTAL, reserve: int = RESERVE) -> None:
        self._total = total
        self._reserve = reserve
        self.held = 0
        """Bytes of all messages now."""

    def grow(self, held: int, more: int) -> bool:
        """Count ``more`` bytes of a message that holds ``held``; return False, and count nothing, without room."""
        limit = self._total if held + more <= SMALL else self._total - self._reserve
        if self.held + more > limit:
            return False
        self.held += more
        return True

    def release(self, held: int) -> None:
        """Count so many bytes no more."""
        self.held -= held
