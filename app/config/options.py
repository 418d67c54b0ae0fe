"""Options of the command line, which win over environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Option(NamedTuple):
    """A value, and the name of the option that gave it: ``--port``."""

    name: str
    value: str


class Options:
    """The options of one command, by the variable that each replaces; workers inherit them by fork."""

    def __init__(self) -> None:
        self._given: Mapping[str, Option] = {}

    def take(self, given: Mapping[str, Option]) -> None:
        """Replace all options."""
        self._given = given

    def add(self, variable: str, option: Option) -> None:
        """Add one option, or replace the one for the same variable."""
        self._given = {**self._given, variable: option}

    def get(self, variable: str) -> str | None:
        """Return the option's value for a variable; None if it was not given."""
        return self._given[variable].value if variable in self._given else None

    def name(self, variable: str) -> str:
        """Return the name the user knows a setting by: ``--port``, or ``PORT``."""
        return self._given[variable].name if variable in self._given else variable


OPTIONS = Options()
"""The options of this process and of the processes it forks."""
