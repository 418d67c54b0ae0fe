"""Limits the bytes of unfinished messages that a process buffers for all clients together.

A client that sends a large body slowly, or never finishes it, makes the server buffer what has arrived. The size of a
message limits one client's share; this limits the sum.
"""

from __future__ import annotations

SMALL = 64 * 1024
"""A message of at most so many bytes may use the whole limit; a larger one must leave the reserve free."""

RESERVED = 4
"""One part in so many of the total is for small messages, so that they are served while large ones fill the rest."""


class BoundedIntake:
    """Counts the bytes. Implements :class:`~app.core.ports.Intake`."""

    def __init__(self, total: int) -> None:
        self.total = total
        """The most bytes of all unfinished messages together."""
        self.held = 0
        """The bytes of all unfinished messages now."""

    def grow(self, held: int, more: int) -> bool:
        """Add ``more`` bytes to a message of ``held``; return False, and add nothing, if that exceeds the limit."""
        limit = self.total if held + more <= SMALL else self.total - self.total // RESERVED
        if self.held + more > limit:
            return False
        self.held += more
        return True

    def release(self, held: int) -> None:
        """Subtract the bytes of a message that is no longer buffered."""
        self.held -= held
