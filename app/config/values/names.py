"""Names of channels and families of channels."""

from __future__ import annotations

import re
from collections.abc import Iterable

from app.config import patterns
from app.config.diagnostics import quoted
from app.core import channel
from app.core.channel import RESERVED

_CHARACTER = "[A-Za-z0-9_.:-]"
_PARAMETER = rf"\{{{patterns.NAME}\}}"

PLAIN = patterns.whole(rf"(?!(?:{'|'.join(map(re.escape, sorted(RESERVED)))})(?![\s\S])){channel.PLAIN.pattern}")
"""Pattern of a channel's name."""

FAMILY = patterns.whole(
    # At most 255 characters, of which the parameter counts as one, and a letter before it.
    rf"(?=(?:{_CHARACTER}|{_PARAMETER}){{2,255}}(?![\s\S]))(?=[^{{]*[A-Za-z])"
    rf"{_CHARACTER}+{_PARAMETER}{_CHARACTER}*"
)
"""Pattern of a family's name."""

_FAMILY = re.compile(r"(?P<prefix>[^{}]*)\{(?P<parameter>[^{}]*)\}(?P<suffix>[^{}]*)", re.DOTALL)
_LONGEST = 255


def refusal(name: str) -> str | None:
    """Return why this is no valid name; None if it is one."""
    if patterns.fits(PLAIN, name) or patterns.fits(FAMILY, name):
        return None
    if name in RESERVED:
        return "this name is reserved: choose another"
    if "{" in name or "}" in name:
        return _family_refusal(name)
    if "*" in name:
        example = name.replace("*", "{room}", 1)
        return f"a name has no '*': a family of channels has a parameter in braces, as in {example}"
    return _characters_refusal(name) or f"a name has 1 to {_LONGEST} characters, not {len(name)}"


def _characters_refusal(text: str) -> str | None:
    """Return what is wrong with the first character that no name has; None if all are good."""
    if wrong := re.search(rf"(?!{_CHARACTER})(?s:.)", text):
        return f"a name has no {quoted(wrong[0])}: only the letters A to Z and a to z, digits, '_', '-', '.' and ':'"
    return None


def _family_refusal(name: str) -> str:
    family = _FAMILY.fullmatch(name)
    if family is None:
        return "a family has exactly one parameter in braces, as in chat.{room}"
    if not re.fullmatch(patterns.NAME, family["parameter"], re.ASCII):
        return "the parameter in braces is letters, digits and '_', and begins with a letter or '_', as in chat.{room}"
    if message := _characters_refusal(family["prefix"] + family["suffix"]):
        return message
    if not re.search("[A-Za-z]", family["prefix"]):
        return "a family starts with a literal prefix of at least one letter, as in chat.{room}"
    return f"around its parameter a family has up to {_LONGEST - 1} characters"


def clashes(names: Iterable[str]) -> dict[str, str]:
    """Return each family that covers the same names as an earlier one, and that earlier one."""
    earlier: dict[tuple[str, str], str] = {}
    found = {}
    for name in names:
        family = _FAMILY.fullmatch(name)
        if family and (first := earlier.setdefault((family["prefix"], family["suffix"]), name)) != name:
            found[name] = first
    return found
