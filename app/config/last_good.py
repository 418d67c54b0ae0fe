"""The last good config: the newest valid content of the files, and the backend that the server started with.

The files are channels.yaml and the schema files that it names. A worker that starts while one of them is broken or
missing serves the last good config, as the older workers do. It is kept in memory that the master shares with its
workers by fork. A copy on disk would have to be found, guarded and removed, because it may hold secrets.

All workers of a server use the backend it started with, whatever the file says now: with two backends, some messages
would go to one log and some to the other.
"""

from __future__ import annotations

import hashlib
import mmap
import pickle
import struct

from app.config.schemas.files import MAX_ALL, Contents
from app.config.settings import Settings
from app.config.yaml.syntax import MAX_BYTES

_MOST = 2 * (MAX_BYTES + MAX_ALL)
"""Bytes for all of it, with room for thousands of paths. What is not used takes no memory."""

HEADER = struct.Struct("<I32s")
"""Length and digest. Two workers may write at the same time; the digest exposes a mix of both."""


class LastGood:
    """Keeps nothing until it is shared: a command that only reads the file must report what is wrong with it."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._first: Settings | None = None
        """What the server was started with; workers inherit it by fork."""

    def share(self) -> None:
        """Start to keep content. The master calls this before it forks; a second call does nothing."""
        if self._memory is None:
            self._memory = mmap.mmap(-1, HEADER.size + _MOST)

    def keep(self, content: bytes, schemas: Contents) -> None:
        """Replace the last good content, and that of the schema files."""
        if self._memory is not None:
            both = pickle.dumps((content, dict(schemas)))
            saved = HEADER.pack(len(both), hashlib.sha256(both).digest()) + both
            self._memory[: len(saved)] = saved

    def over_one_backend(self, settings: Settings) -> Settings:
        """Return the settings with the backend that the server started with."""
        if self._memory is None:
            return settings
        if self._first is None:
            self._first = settings
        return settings.over_backend_of(self._first)

    def recall(self) -> tuple[bytes, Contents] | None:
        """Return the last good content, and that of the schema files; None if there is none."""
        if self._memory is None:
            return None
        length, digest = HEADER.unpack_from(self._memory)
        both = self._memory[HEADER.size : HEADER.size + length]
        if hashlib.sha256(both).digest() != digest:
            return None
        content, schemas = pickle.loads(both)  # noqa: S301 — our own processes wrote it
        return content, schemas


LAST_GOOD = LastGood()
"""The one of this process and of the processes it forks."""
