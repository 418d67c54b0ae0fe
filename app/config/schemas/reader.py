"""Reads JSON without losing anything: numbers of any size, and names that appear twice in an object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

_ODD_NUMBER = re.compile(r"[0-9]{16}|[eE][+-]?[0-9]{3}")
"""Part of each number that a float or a short integer may not hold; strings may have it, too."""

_FARTHEST = 10**6
"""Stands for an exponent of nineteen digits and more, which Decimal does not take."""

Pairs = list[tuple[str, Any]]
Steps = tuple[str | int, ...]


class RepeatedNameError(Exception):
    """An object has a name twice: readers disagree on which of its values counts."""

    def __init__(self, steps: Steps) -> None:
        """Take the names and indexes that lead to the member."""
        super().__init__(steps)
        self.steps = steps


class _Repeated(dict[str, Any]):
    """An object that has a name twice."""

    name: str


def decode(text: str) -> Any:  # noqa: ANN401 — any JSON
    """Return the value of a JSON text that is known to be valid; raise :class:`RepeatedNameError`."""
    decoder = _EXACT if _ODD_NUMBER.search(text) else _FAST
    try:
        return decoder.decode(text)
    except RepeatedNameError:
        raise RepeatedNameError(next(_repeated(_MARKING.decode(text), ()))) from None


def _unique(pairs: Pairs) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise RepeatedNameError(())
    return members


def _marked(pairs: Pairs) -> dict[str, Any]:
    members = _Repeated(pairs)
    if len(members) == len(pairs):
        return dict(members)
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            members.name = name
        seen.add(name)
    return members


def _repeated(value: object, steps: Steps) -> Iterator[Steps]:
    """Yield where a name appears twice."""
    if isinstance(value, _Repeated):
        yield (*steps, value.name)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in inner:
        yield from _repeated(part, (*steps, step))


def _exact(number: str) -> Decimal:
    try:
        return Decimal(number)
    except InvalidOperation:  # its exponent is too long
        mantissa, _, exponent = number.lower().partition("e")
        far = -_FARTHEST if exponent.startswith("-") else _FARTHEST
        return Decimal(f"{mantissa}e{far}") if mantissa.strip("-0.") else Decimal(0)


_FAST = json.JSONDecoder(object_pairs_hook=_unique)
_EXACT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_exact, parse_float=_exact)
_MARKING = json.JSONDecoder(object_pairs_hook=_marked, parse_int=float)
