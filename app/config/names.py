"""What a channel, or a family of channels, may be called in the file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from app.core.channel import NAME, RESERVED

PARAMETER_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
FAMILY_PATTERN = rf"^(?=[^{{]*[A-Za-z][^{{]*\{{)[A-Za-z0-9_.:-]{{1,254}}\{{{PARAMETER_NAME}\}}[A-Za-z0-9_.:-]{{0,253}}$"

_FAMILY = re.compile(r"(?P<prefix>[^{}]*)\{(?P<parameter>[^{}]*)\}(?P<suffix>[^{}]*)", re.DOTALL)
_LONGEST = 255


def refusal(name: str) -> str | None:
    """Return why nothing may have this name, or None."""
    if name in RESERVED:
        return "this name is the server's own: choose another"
    if "{" in name or "}" in name:
        return _family_refusal(name)
    if not NAME.fullmatch(name):
        return f"a name is 1 to {_LONGEST} letters, digits, '_', '-', '.' or ':'"
    return None


def _family_refusal(name: str) -> str | None:
    family = _FAMILY.fullmatch(name)
    if family is None or not re.fullmatch(PARAMETER_NAME, family["parameter"], re.ASCII):
        return "a family has exactly one parameter in braces, as in chat.{room}"
    literal = family["prefix"] + family["suffix"]
    if not re.search("[A-Za-z]", family["prefix"]):
        return "a family starts with a literal prefix of at least one letter, as in chat.{room}"
    if not NAME.fullmatch(literal) or len(literal) >= _LONGEST:
        return f"around its parameter a family has up to {_LONGEST - 1} letters, digits, '_', '-', '.' or ':'"
    return None


def clashes(names: Iterable[str]) -> dict[str, str]:
    """Return the families that stand for the same names as an earlier one: family → that earlier one."""
    earlier: dict[tuple[str, str], str] = {}
    found = {}
    for name in names:
        family = _FAMILY.fullmatch(name)
        if family and (first := earlier.setdefault((family["prefix"], family["suffix"]), name)) != name:
            found[name] = first
    return found
