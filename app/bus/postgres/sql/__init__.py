"""All SQL, in files: statements by name, migrations by number.

Each file begins with a comment: what the statement does, its parameters, what it returns, and which module calls it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_COMMENT = re.compile(r"\A(?:--[^\n]*\n)+")


class Migration(NamedTuple):
    """One numbered step of the schema."""

    number: int
    name: str
    sql: str


@cache
def query(name: str) -> str:
    """Return the statement in ``<name>.sql``, without the comment at its top, which no server needs to parse."""
    return _COMMENT.sub("", files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8"))


@cache
def migrations() -> list[Migration]:
    """Return all migrations in the order of their numbers, which count from 1 without gaps."""
    found = sorted(path.name for path in files(__name__).joinpath("migrations").iterdir() if path.name.endswith(".sql"))
    steps = [
        Migration(int(name[:4]), name, files(__name__).joinpath("migrations", name).read_text(encoding="utf-8"))
        for name in found
    ]
    if [step.number for step in steps] != list(range(1, len(steps) + 1)):
        msg = f"the migrations must be numbered 1, 2, 3, … without gaps: {found}"
        raise RuntimeError(msg)
    return steps
