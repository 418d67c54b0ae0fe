"""Message data: JSON text (RFC 8259) that is checked once and passed on byte for byte.

The standard library checks small texts at once. Large texts are scanned by ``core/scan.py`` in steps that take turns
(``core/turns.py``), so that no client has to wait for another's large text.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Collection
from itertools import accumulate
from json.decoder import scanstring  # type: ignore[attr-defined]  # the stubs leave it out
from typing import Any, NoReturn

from app.core import turns
from app.core.channel import MAX_MESSAGE_SIZE
from app.core.errors import MalformedError
from app.core.scan import MAX_DEPTH, Members, Scan, not_utf8
from app.core.turns import Pace, Steps

INLINE = 4 * 1024
"""The most bytes of a text that is checked at once, without waiting for a turn: a quarter of a millisecond."""

SMALL = 32 * 1024
"""The most bytes of a text that is checked in one step: two milliseconds."""

MAX_ENVELOPE = 8 * 1024
"""The most bytes around a message: its channel, its key, white space."""

MAX_ITEM = MAX_MESSAGE_SIZE + MAX_ENVELOPE
"""The most bytes of a message with its envelope."""

ENVELOPE_DEPTH = MAX_DEPTH + 1
"""How deep an envelope may be nested: one level more than its message."""

SHOWN = 80
"""How many characters of what a client sent an error repeats."""

# The closing quote is optional, so that an unterminated string is matched in one step: a
# pattern that required it would start again at every escaped quote, in quadratic time.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_DEEPER = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_WHITESPACE = re.compile(r"[ \t\n\r]*")
_ARRAY = re.compile(rb"[ \t\n\r]*+\[")
_SPACES = frozenset(" \t\n\r")
# One match each for what most texts consist of: an object's first name, a further name, the object's end, and a
# string, all without escapes.
_FIRST = re.compile(r'[ \t\n\r]*\{[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_NEXT = re.compile(r'[ \t\n\r]*,[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_LAST = re.compile(r"[ \t\n\r]*\}[ \t\n\r]*\Z")
_PLAIN_STRING = re.compile(r'"([^"\\\x00-\x1f]*)"')


class MemberError(MalformedError):
    """An object has a member that is not allowed; ``found`` has the members before it."""

    def __init__(self, detail: str, found: Members) -> None:
        super().__init__(detail)
        self.found = found


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise MalformedError(msg)


# Numbers are only checked, never used: parsed as floats they take no time, however long they are.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant)
_scan = _DECODER.scan_once  # type: ignore[attr-defined]  # the stubs leave it out


def decode(body: bytes) -> str:
    """Return the text of ``body``; raise :class:`MalformedError` unless it is UTF-8 without BOM."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(body, error.start) from None
    if text.startswith("\ufeff"):
        msg = "the body starts with a byte order mark: send UTF-8 without one"
        raise MalformedError(msg)
    return text


def check(text: str) -> None:
    """Raise :class:`MalformedError` unless the small ``text`` is one JSON value."""
    _check_depth(text)
    _, end = _value(text, _skip(text, 0))
    _expect_end(text, end)


def check_bytes(body: bytes) -> bytes:
    """Return the small ``body`` unchanged; raise :class:`MalformedError` unless it is one JSON value."""
    check(decode(body))
    return body


async def read(body: bytes) -> bytes:
    """Do what :func:`check_bytes` does, for a body of any size."""
    if len(body) <= INLINE:
        return check_bytes(body)
    return await turns.run(_whole(body))


def end_of_value(text: str, position: int) -> int | None:
    """Return where the JSON value ends that begins at ``position`` of a small text; None if it needs a closer look.

    That is something invalid, or with so many brackets that it may be nested too deep.
    """
    try:
        end: int = _scan(text, position)[1]
    except (StopIteration, json.JSONDecodeError, MalformedError, RecursionError):
        return None
    return end if text.count("[", position, end) + text.count("{", position, end) <= MAX_DEPTH else None


def is_array(body: bytes) -> bool:
    """Whether the JSON text can only be an array."""
    return _ARRAY.match(body) is not None


def members(text: str, names: Collection[str]) -> Members:
    """Return the members of a small JSON object, each value as its JSON text.

    Raises :class:`MalformedError` for anything but one object, and :class:`MemberError` for the first name that is
    not among ``names`` or appears twice.
    """
    _check_depth(text, ENVELOPE_DEPTH)
    return _plain_members(text, names) or _members(text, names)


async def read_members(body: bytes, names: Collection[str]) -> Members:
    """Do what :func:`members` does, for a body of any size.

    Also raises :class:`~app.core.errors.TooLargeError`, as soon as a member is larger than any message may be.
    """
    if len(body) <= INLINE:
        return members(decode(body), names)
    return await turns.run(walk_members(body, names, Pace()))


def walk_members(body: bytes, names: Collection[str], pace: Pace) -> Steps[Members]:
    """Do what :func:`read_members` does, in steps of ``pace``."""
    if len(body) <= SMALL:
        yield from pace.pause()
        return members(decode(body), names)

    def take(text: bytes, found: Members) -> str:
        name = string(text.decode(), "a name")
        _check_name(name, names, found)
        return name

    return (yield from Scan(body, MAX_ITEM, pace).members(take))


def walk_items(body: bytes, most: int, pace: Pace) -> Steps[list[slice]]:
    """Return where each item of a JSON array is in ``body``, in steps of ``pace``.

    Raises :class:`MalformedError` as soon as there are more than ``most`` items, and
    :class:`~app.core.errors.TooLargeError` as soon as an item is larger than any message with its envelope may be.
    """
    return Scan(body, MAX_ITEM, pace, ENVELOPE_DEPTH).items(most)


def _whole(body: bytes) -> Steps[bytes]:
    if len(body) <= SMALL:
        return check_bytes(body)
    yield from Scan(body, len(body), Pace()).whole()
    return body


def _plain_members(text: str, names: Collection[str]) -> Members | None:
    """Return what :func:`_members` does, for most texts; None for a text that needs a closer look."""
    found: Members = {}
    end = 0
    match = _FIRST.match(text)
    while match:
        name, begin = match[1], match.end()
        if name in found or name not in names:
            return None
        _, end = _value(text, begin)
        found[name] = text[begin:end]
        match = _NEXT.match(text, end)
    return found if _LAST.match(text, end) else None


def _members(text: str, names: Collection[str]) -> Members:
    found: Members = {}
    position = _open(text)
    while not _closed(text, position):
        name, start = _name(text, position)
        _check_name(name, names, found)
        _, end = _value(text, start)
        found[name] = text[start:end]
        position = _next(text, end)
    _expect_end(text, _skip(text, position) + 1)
    return found


def _check_name(name: str, names: Collection[str], found: Members) -> None:
    if name not in names:
        msg = f"unknown member {name[:SHOWN]!r}: the members here are {', '.join(sorted(names))}"
        raise MemberError(msg, found)
    if name in found:
        msg = f"the member {name[:SHOWN]!r} appears twice"
        raise MemberError(msg, found)


def string(text: str, what: str) -> str:
    """Return the value of a JSON string; raise a :class:`MalformedError` that names ``what`` for anything else.

    Refuses half of a surrogate pair, which has no UTF-8.
    """
    if plain := _PLAIN_STRING.fullmatch(text):
        return plain[1]
    if not text.startswith('"'):
        msg = f"{what} must be a string, not {text[:SHOWN]}"
        raise MalformedError(msg)
    value: str = _DECODER.decode(text)
    try:
        value.encode()
    except UnicodeEncodeError:
        msg = f"{what} contains half of a surrogate pair, which is not a character"
        raise MalformedError(msg) from None
    return value


def from_text(body: bytes) -> bytes:
    """Return plain text as a JSON string."""
    return json.dumps(decode(body), ensure_ascii=False).encode()


async def read_text(body: bytes) -> bytes:
    """Do what :func:`from_text` does, for a body as large as a message may be."""
    if len(body) > INLINE:
        await turns.turn()
    return from_text(body)


def _check_depth(text: str, deepest: int = MAX_DEPTH) -> None:
    if text.count("[") + text.count("{") <= deepest:
        return
    brackets = _STRINGS.sub(b"", text.encode(errors="replace")).translate(_DEEPER, _NO_BRACKET)
    if max(accumulate(array("b", brackets)), default=0) > deepest:
        msg = f"the JSON is nested more than {MAX_DEPTH} deep"
        raise MalformedError(msg)


def _value(text: str, position: int) -> tuple[Any, int]:
    try:
        return _scan(text, position)  # type: ignore[no-any-return]
    except (StopIteration, json.JSONDecodeError):
        pass  # raw_decode says what is wrong
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        hint = ": text needs quotes around it" if error.pos == 0 and text else ""
        msg = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}{hint}"
        raise MalformedError(msg) from None


def _skip(text: str, position: int) -> int:
    if text[position : position + 1] not in _SPACES:
        return position
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _open(text: str) -> int:
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        msg = "expected an object"
        raise MalformedError(msg)
    return position + 1


def _closed(text: str, position: int) -> bool:
    position = _skip(text, position)
    return text[position : position + 1] == "}"


def _name(text: str, position: int) -> tuple[str, int]:
    """Return a member's name and the position of its value."""
    position = _skip(text, position)
    if text[position : position + 1] != '"':
        _fail("Expecting property name in double quotes", text, position)
    try:
        name, position = scanstring(text, position + 1, True)  # noqa: FBT003 — positional in C
    except json.JSONDecodeError as error:
        _fail(error.msg, text, error.pos)
    position = _skip(text, position)
    if text[position : position + 1] != ":":
        _fail("Expecting ':'", text, position)
    return name, _skip(text, position + 1)


def _next(text: str, position: int) -> int:
    """Return the position after the comma that follows a value, or of the closing bracket."""
    position = _skip(text, position)
    if text[position : position + 1] == ",":
        if _closed(text, position + 1):
            _fail("Illegal trailing comma", text, position)
        return position + 1
    if text[position : position + 1] != "}":
        _fail("Expecting ',' or the end", text, position)
    return position


def _expect_end(text: str, position: int) -> None:
    position = _skip(text, position)
    if position != len(text):
        _fail("Extra data", text, position)


def _fail(message: str, text: str, position: int) -> NoReturn:
    error = json.JSONDecodeError(message, text, position)
    msg = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    raise MalformedError(msg)
