r"""What texts in the file look like, as regular expressions that the loader and editors share.

They mean the same in Python and in JSON Schema (ECMA-262). So they use no classes such as ``\d``, which are
larger in Python, and no ``$``, before which Python accepts one more line break.
"""

from __future__ import annotations

import re

BLANKS = " \t\r\n"
"""What may surround a text from a variable or a file."""

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
"""Name of a variable, or of a family's parameter."""

SPACE = r"\x00-\x20\x7f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space and control characters, for use in a class."""

OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = rf"(?:{OCTET}\.){{3}}{OCTET}"

_H16 = "[0-9A-Fa-f]{1,4}"
IPV6 = "(?:{})".format(
    "|".join(
        [rf"(?:{_H16}:){{7}}{_H16}", rf"::(?:{_H16}(?::{_H16}){{0,6}})?"]
        + [rf"(?:{_H16}:){{{before}}}(?::{_H16}){{1,{7 - before}}}" for before in range(1, 7)]
        + [rf"(?:{_H16}:){{1,7}}:"]
    )
)
"""An IPv6 address that does not end with an IPv4 address."""


def whole(pattern: str) -> str:
    """Return a pattern that matches only a whole text."""
    return rf"^(?:{pattern})(?![\s\S])"


def fits(pattern: str, text: str) -> bool:
    """Whether a text matches a pattern of :func:`whole`."""
    return re.search(pattern, text) is not None


def any_case(word: str) -> str:
    """Return a pattern for a word in upper or lower case."""
    return "".join(f"[{letter.upper()}{letter.lower()}]" for letter in word)


def number(least: int, most: int) -> str:
    """Return a pattern for decimal numbers from ``least`` to ``most``, with any number of leading zeros."""
    found = []
    for digits in range(len(str(least)), len(str(most)) + 1):
        low, high = max(least, 10 ** (digits - 1) if digits > 1 else 0), min(most, 10**digits - 1)
        found += _between(str(low), str(high))
    return f"0*(?:{'|'.join(found)})"


def _between(low: str, high: str) -> list[str]:
    """Return patterns for the numbers between two with the same number of digits."""
    rest = len(low) - 1
    if not low:
        return [""]
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return [_digit(low[0], high[0]) + ("[0-9]" if rest == 1 else f"[0-9]{{{rest}}}" if rest else "")]
    if low[0] == high[0]:
        return [low[0] + following for following in _between(low[1:], high[1:])]
    found = [low[0] + following for following in _between(low[1:], "9" * rest)]
    if int(high[0]) - int(low[0]) > 1:
        first, last = str(int(low[0]) + 1), str(int(high[0]) - 1)
        found += _between(first + "0" * rest, last + "9" * rest)
    return found + [high[0] + following for following in _between("0" * rest, high[1:])]


def _digit(first: str, last: str) -> str:
    return first if first == last else f"[{first}-{last}]"


_LITERAL = r"[^$]|\$(?!\$?\{)|\$\$\{"
_REFERENCE = rf"\$\{{{NAME}(?::-[^}}]*)?\}}"

VARIABLE = whole(rf"(?:{_LITERAL})*{_REFERENCE}(?:{_LITERAL}|{_REFERENCE})*")
"""A text with a variable in it, whose value an editor cannot know."""
