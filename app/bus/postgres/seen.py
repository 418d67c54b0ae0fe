"""Whether a server has found its log already: then it makes none, where the schema is away.

A schema that is away may be about to be restored, and a new one would be in the way. So what one worker has found
counts for all of its server, those that are born later, too: it lies in memory that they have from the master by fork.
"""

from __future__ import annotations

import mmap


class Seen:
    """What one backend knows, and those of the same server."""

    _shared: mmap.mmap | None = None

    @classmethod
    def share(cls) -> None:
        """Begin to share it, in the master before its first worker; harmless when that has begun."""
        cls._shared = cls._shared or mmap.mmap(-1, 1)

    def __init__(self) -> None:
        self._here = False

    def __bool__(self) -> bool:
        return self._here or (self._shared is not None and self._shared[0] == 1)

    def note(self) -> None:
        """Note that the log was found."""
        self._here = True
        if self._shared is not None:
            self._shared[0] = 1
