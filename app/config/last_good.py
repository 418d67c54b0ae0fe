"""What a server keeps of the file: its newest content that could be used, and the backend that it was started with.

A worker that begins while the file is broken, or away for a moment, serves this, as those do that were there before the
edit. It lies in memory that workers have from the master by fork: on a disk it would have to be found, guarded and
removed, for there may be secrets in it.

And whatever the file names by now, all workers of a server have one backend: were there two, some messages would go to
one log and some to the other.
"""

from __future__ import annotations

import hashlib
import mmap
import struct

from app.config.settings import Settings
from app.config.yaml.syntax import MAX_BYTES

_HEAD = struct.Struct("<I32s")
"""Length and digest: two workers may write at the same time, and what is neither's is not to be taken for either's."""


class LastGood:
    """Keeps nothing until it is shared: a command that only reads the file is to be told what is wrong with it."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._first: Settings | None = None
        """What the server was started with; workers have it by fork."""

    def share(self) -> None:
        """Begin to keep, in the master before its first worker; harmless when it has begun."""
        if self._memory is None:
            self._memory = mmap.mmap(-1, _HEAD.size + MAX_BYTES)

    def keep(self, content: bytes) -> None:
        """Keep content that could be used, instead of what there was."""
        if self._memory is not None:
            kept = _HEAD.pack(len(content), hashlib.sha256(content).digest()) + content
            self._memory[: len(kept)] = kept

    def over_one_backend(self, settings: Settings) -> Settings:
        """Return settings over the backend of the first ones that were kept."""
        if self._memory is None:
            return settings
        if self._first is None:
            self._first = settings
        return settings.over_backend_of(self._first)

    def recall(self) -> bytes | None:
        """Return what was kept, if there is something."""
        if self._memory is None:
            return None
        length, digest = _HEAD.unpack_from(self._memory)
        content = self._memory[_HEAD.size : _HEAD.size + length]
        return content if hashlib.sha256(content).digest() == digest else None


LAST_GOOD = LastGood()
"""This process's, and that of the processes that it forks."""
