"""Whether a server has found its log before. Then it creates no new one where the schema is missing.

A schema that is missing may be about to be restored, and a new one would be in the way. So what one worker has found
counts for its whole server, later workers included: it is in memory that they inherit from the master by fork.
"""

from __future__ import annotations

import mmap


class Seen:
    """Whether this backend, or another of the same server, has found the log."""

    _shared: mmap.mmap | None = None

    @classmethod
    def share(cls) -> None:
        """Begin to share it: called in the master before its first worker; a second call does nothing."""
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
