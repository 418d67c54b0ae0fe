"""The schema files that channels.yaml names: their content, each read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

MAX_FILE = 256 * 1024
"""The most bytes of a schema file."""

MAX_ALL = 4 * 1024 * 1024
"""The most bytes of all schema files together."""

Content = bytes | str
"""What a file holds; a text says why it cannot be read."""

Contents = Mapping[str, Content]
"""By the path of a file, as channels.yaml writes it."""


class SchemaFiles:
    """The schema files in the folder of channels.yaml. Each is read when it is first asked for, and never again."""

    def __init__(self, folder: Path, contents: Contents | None = None) -> None:
        """Take what was read before."""
        self._folder = folder
        self._known = dict(contents or {})
        self._room = MAX_ALL
        self.contents: dict[str, Content] = {}
        """What was asked for."""

    def read(self, path: str) -> Content:
        """Return what a file holds, or why it cannot be read."""
        if path not in self.contents:
            known = self._known.get(path)
            content = _read(self._folder / path) if known is None else known
            if isinstance(content, bytes):
                self._room -= len(content)
                if self._room < 0:  # and nothing of the files after it is kept either
                    content = f"is one file too many: all schema files together have more than {MAX_ALL} bytes (4 MiB)"
            self.contents[path] = content
        return self.contents[path]

    def read_all(self, paths: Iterable[str]) -> None:
        """Read several files."""
        for path in paths:
            self.read(path)


def hash_in(contents: Contents) -> bytes:
    """Return what identifies these contents; empty for none."""
    return b"".join(_hash(path) + _hash(contents[path]) for path in sorted(contents))


def _hash(content: Content) -> bytes:
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    return hashlib.sha256(repr(content).encode()).digest()


def _read(path: Path) -> Content:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return content if len(content) <= MAX_FILE else f"has more than {MAX_FILE} bytes ({MAX_FILE // 1024} KiB)"
