"""URLs of a SQLite file: ``sqlite:///data/log.db`` is relative to the working directory, as SQLAlchemy has it."""

from __future__ import annotations

import os
from pathlib import Path

from app.config import patterns

_EXAMPLES = "write sqlite:///data/abide.db, relative to the working directory, or sqlite:////data/abide.db, absolute"
_FORBIDDEN = r"\x00-\x1f\x7f?#"
"""What no part of the path holds, for a class."""

PATTERN = (
    rf"{patterns.any_case('sqlite')}:///(?!/*:memory:)"
    rf"[^{_FORBIDDEN}]*[^/{_FORBIDDEN}{patterns.SPACE}]"
)

_WHOLE = patterns.whole(PATTERN)
_SCHEME = "sqlite:///"


def refusal(url: str) -> str | None:
    """Return why the URL cannot be that of a file; None if it can."""
    if patterns.fits(_WHOLE, url):
        return None
    scheme, _, rest = url.partition("://")
    if "+" in scheme:
        return f"names a driver, and there is only one: {_EXAMPLES}"
    if ":memory:" in rest:
        return "sqlite:// keeps the log in a file: write memory:// for the log of one process, or name a file"
    if "?" in rest or "#" in rest:
        return f"holds ? or #, and there are no options: {_EXAMPLES}"
    if rest and not rest.startswith("/"):
        return f"has two slashes before the path, which takes three or four: {_EXAMPLES}"
    return f"names no file: {_EXAMPLES}"


def path(url: str) -> Path:
    """Return the absolute path of the file that the URL names; of a link, that of the file that it leads to.

    SQLite keeps what is beside the log there, so workers that name the file differently find each other.
    """
    path = Path(url[len(_SCHEME) :]).absolute()
    return Path(os.path.realpath(path)) if path.is_symlink() else path
