"""What is wrong with a configuration, and where: an editor or a log can lead to the place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_LONGEST_SHOWN = 60
_LONGEST_LINE = 500

MOST_SHOWN = 10
"""Lines of a list that are shown unless the whole list was asked for."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong, and where.

    ``file`` is empty for a diagnostic about the environment; ``line`` and ``column`` count from 1
    and are 0 if there is no place to point at; ``key_path`` is ``channels.news.history``, or
    the name of a variable.
    """

    file: str
    line: int
    column: int
    key_path: str
    message: str
    variables: tuple[str, ...] = ()
    """The variables of the environment that the value came from, which are then what is wrong."""

    def __str__(self) -> str:
        """Return it as ``config/channels.yaml:4:10: channels.news.history: …``, or as ``NAME: … (backend in …)``."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        if self.variables:
            return f"{' and '.join(self.variables)}: {self.message} ({self.key_path} in {place})"
        return ": ".join(part for part in (place, self.key_path, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used; ``str()`` has one line per diagnostic."""

    def __init__(self, diagnostics: Iterable[Diagnostic], *, more: int = 0) -> None:
        """Take the diagnostics, and how many more were found."""
        self.diagnostics = tuple(diagnostics)
        self.more = more
        super().__init__("\n".join(map(str, self.diagnostics)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling."""
        return partial(ConfigError, more=self.more), (self.diagnostics,)

    def summary(self) -> list[str]:
        """Return one line for each of the first diagnostics, and how many more there are: a file may have thousands."""
        return first_of(map(str, self.diagnostics), more=self.more)


def first_of(lines: Iterable[str], *, more: int = 0) -> list[str]:
    """Return the first lines, shortened, then how many more there are, with ``more`` added: ``and 7 more``."""
    rest = iter(lines)
    shown = [_shortened(line, _LONGEST_LINE) for line in islice(rest, MOST_SHOWN)]
    more += sum(1 for _ in rest)
    return [*shown, f"and {more} more"] if more else shown


def key_path(location: Sequence[str | int]) -> str:
    """Return a location as ``channels.news.history``, ``auth.keys[1]`` or ``channels."chat.{room}"``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += "." * bool(path) + (part if _BARE.fullmatch(part) else quoted(part))
    return path


def quoted(text: str) -> str:
    """Return a user's text in double quotes, on one line, in ASCII, shortened if it is long."""
    shown = _shortened(text, _LONGEST_SHOWN)
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + '"'


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def listed(words: Iterable[str]) -> str:
    """Return ``anyone, key or nobody``."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean key?)``, or nothing if no known word is similar."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
