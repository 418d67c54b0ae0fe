"""Whether a path can be that of the log: looked at before anything is opened, and said by name."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

from app.bus.sqlite.file.mounts import shared_type

_LEAST_VERSION = (3, 35, 0)
"""Earlier versions know of no ``sqlite_schema``, and cannot do what the statements need."""

_MAGIC = b"SQLite format 3\0"


def refusal(path: Path) -> str | None:
    """Return why the log cannot be kept at the path, in one line; None if nothing speaks against it.

    It reads the file. Call it before a server starts, and never where the file is open: to close it would give up the
    locks that SQLite has on it in this process.
    """
    message = misplaced(path)
    if message is not None or not path.exists():
        return message
    with path.open("rb") as file:
        begins = file.read(len(_MAGIC))
    return None if begins in {b"", _MAGIC} else f"{path} is not a SQLite database: name another file, or move this away"


def misplaced(path: Path) -> str | None:
    """Return why the log cannot be kept at the path, without a look into the file."""
    if sqlite3.sqlite_version_info < _LEAST_VERSION:
        least = ".".join(map(str, _LEAST_VERSION))
        return f"sqlite:// needs SQLite {least}, and this Python has {sqlite3.sqlite_version}: use another Python"
    folder = path.parent
    if message := _of_folder(folder):
        return message
    if kind := shared_type(folder):
        return (
            f"{folder} is on a network file system ({kind}), which SQLite's locks do not work on: use a disk of this "
            "machine, or postgres:// for several machines"
        )
    try:
        found = path.stat()
    except FileNotFoundError:
        return None if os.access(folder, os.W_OK | os.X_OK) else _not_writable(folder)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return _of_file(path, found)


def _of_folder(folder: Path) -> str | None:
    if not folder.exists():
        return f"the folder {folder} does not exist: create it, or correct the path"
    if not folder.is_dir():
        return f"{folder} is not a folder: correct the path"
    return None


def _of_file(path: Path, found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a file: correct the path"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{path} can only be read: let the server's user write to it"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return _not_writable(path.parent)
    return None


def _not_writable(folder: Path) -> str:
    return (
        f"the folder {folder} cannot be written to: let the server's user write to it, "
        "because SQLite keeps more files beside the log"
    )
