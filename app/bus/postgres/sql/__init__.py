"""SQL lives in files: queries by name, migrations by number."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Migration(NamedTuple):
    """One numbered step of the schema."""

    number: int
    name: str
    sql: str


@cache
def query(name: str) -> str:
    """Return the text of ``<name>.sql``."""
    return files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


@cache
def migrations() -> list[Migration]:
    """Return all migrations in the order of their numbers, which count from 1 without gaps."""
    found = sorted(path.name for path in files(__name__).joinpath("migrations").iterdir() if path.name.endswith(".sql"))
    steps = [
        Migration(int(name[:4]), name, files(__name__).joinpath("migrations", name).read_text(encoding="utf-8"))
        for name in found
    ]
    if [step.number for step in steps] != list(range(1, len(steps) + 1)):
        msg = f"migrations are not numbered 1, 2, 3, …: {found}"
        raise RuntimeError(msg)
    return steps
