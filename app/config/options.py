"""What the command line says in place of environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Option(NamedTuple):
    """A value, and what the user calls the place where it was given: ``--port``."""

    name: str
    value: str


class Options:
    """The options of one command, by the variable that each goes before; workers have them by fork."""

    def __init__(self) -> None:
        self._given: Mapping[str, Option] = {}

    def take(self, given: Mapping[str, Option]) -> None:
        """Replace all that was taken before."""
        self._given = given

    def add(self, variable: str, option: Option) -> None:
        """Take one more, before what was taken for the same variable."""
        self._given = {**self._given, variable: option}

    def get(self, variable: str) -> str | None:
        """Return what was given in place of a variable."""
        return self._given[variable].value if variable in self._given else None

    def name(self, variable: str) -> str:
        """Return how the user calls what a variable says: ``--port``, or ``PORT``."""
        return self._given[variable].name if variable in self._given else variable


OPTIONS = Options()
"""This process's, and that of the processes that it forks."""
