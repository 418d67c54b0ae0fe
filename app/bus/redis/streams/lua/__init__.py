"""The functions that run inside Redis, in files. Each begins with a comment: what it does, takes and returns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_COMMENT = re.compile(r"^ *--[^\n]*\n", re.MULTILINE)


class Script(NamedTuple):
    """A function, and the name that Redis gives it once it is loaded."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """Return the function in ``<name>.lua``, without the comments, which no server needs to keep."""
    text = _COMMENT.sub("", files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8"))
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 — Redis names them so


def words(name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> list[str | bytes | int]:
    """Return the command that runs a function."""
    return ["EVALSHA", script(name).sha, len(keys), *keys, *arguments]
