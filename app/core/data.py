"""Message data: RFC 8259 JSON text that is checked once and passed on byte for byte."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # the stubs leave it out
from typing import Any, NoReturn

from app.core.errors import MalformedError

MAX_DEPTH = 128
"""How deep arrays and objects may be nested."""

# The closing quote is optional so that an unterminated string is passed in one step: a
# pattern that needed it would start again at every escaped quote, in quadratic time.
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_WHITESPACE = re.compile(r"[ \t\n\r]*")
_SPACES = frozenset(" \t\n\r")
# What most texts have, in one step each: an object's first name and each other one, without escapes, with all that
# stands around it; its end; a comma that more follows; a string.
_FIRST = re.compile(r'[ \t\n\r]*\{[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_NEXT = re.compile(r'[ \t\n\r]*,[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_LAST = re.compile(r"[ \t\n\r]*\}[ \t\n\r]*\Z")
_COMMA = re.compile(r"[ \t\n\r]*,(?=[ \t\n\r]*[^\]} \t\n\r])")
_PLAIN_STRING = re.compile(r'"([^"\\\x00-\x1f]*)"')


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise MalformedError(msg)


# Numbers are only checked, never used: as floats they cost no time however long they are.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant)


def decode(body: bytes) -> str:
    """Return the text of ``body``; raise :class:`MalformedError` unless it is UTF-8 without BOM."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        msg = f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}"
        raise MalformedError(msg) from None
    if text.startswith("\ufeff"):
        msg = "the body starts with a byte order mark: send UTF-8 without one"
        raise MalformedError(msg)
    return text


def check(text: str) -> None:
    """Raise :class:`MalformedError` unless ``text`` is one JSON value."""
    _check_depth(text)
    _, end = _value(text, _skip(text, 0))
    _expect_end(text, end)


def check_bytes(body: bytes) -> bytes:
    """Return ``body`` as it is; raise :class:`MalformedError` unless it is one JSON value."""
    check(decode(body))
    return body


def is_array(text: str) -> bool:
    """Whether the JSON text can only be an array."""
    return text[_skip(text, 0) :][:1] == "["


def members(text: str) -> dict[str, str]:
    """Return the members of a JSON object, each value as the text that stands there.

    Raises :class:`MalformedError` for anything but one object, and for a name that stands twice.
    """
    _check_depth(text)
    return _plain_members(text) or _members(text)


def _plain_members(text: str) -> dict[str, str] | None:
    """Return what :func:`_members` would; None where it takes more to know."""
    found: dict[str, str] = {}
    count = end = 0
    name = _FIRST.match(text)
    while name:
        begin = name.end()
        _, end = _value(text, begin)
        found[name[1]] = text[begin:end]
        count += 1
        name = _NEXT.match(text, end)
    return found if count == len(found) and _LAST.match(text, end) else None


def _members(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    position = _open(text, "{", "an object")
    while not _closed(text, position, "}"):
        name, start = _name(text, position)
        _, end = _value(text, start)
        if name in found:
            msg = f"the member {name!r} stands twice"
            raise MalformedError(msg)
        found[name] = text[start:end]
        position = _next(text, end, "}")
    _expect_end(text, _skip(text, position) + 1)
    return found


def items(text: str) -> list[str]:
    """Return the items of a JSON array, each as the text that stands there."""
    _check_depth(text)
    found: list[str] = []
    position = _open(text, "[", "an array")
    while not _closed(text, position, "]"):
        start = _skip(text, position)
        _, end = _value(text, start)
        found.append(text[start:end])
        position = _next(text, end, "]")
    _expect_end(text, _skip(text, position) + 1)
    return found


def string(text: str, what: str) -> str:
    """Return the value of a JSON string; raise :class:`MalformedError` that names ``what``."""
    if plain := _PLAIN_STRING.fullmatch(text):
        return plain[1]
    value = _DECODER.decode(text)
    if not isinstance(value, str):
        msg = f"{what} must be a string, not {text[:40]}"
        raise MalformedError(msg)
    return value


def from_text(body: bytes) -> bytes:
    """Return plain text as a JSON string."""
    return json.dumps(decode(body), ensure_ascii=False).encode()


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRUCTURE.finditer(text):
        found = match[0]
        if found in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                msg = f"the JSON is nested more than {MAX_DEPTH} deep at character {match.start()}"
                raise MalformedError(msg)
        elif found in "]}":
            depth -= 1


def _value(text: str, position: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        msg = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise MalformedError(msg) from None


def _skip(text: str, position: int) -> int:
    if text[position : position + 1] not in _SPACES:
        return position
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _open(text: str, bracket: str, what: str) -> int:
    position = _skip(text, 0)
    if text[position : position + 1] != bracket:
        msg = f"expected {what}"
        raise MalformedError(msg)
    return position + 1


def _closed(text: str, position: int, bracket: str) -> bool:
    position = _skip(text, position)
    return text[position : position + 1] == bracket


def _name(text: str, position: int) -> tuple[str, int]:
    """Return a member's name, and where its value begins."""
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


def _next(text: str, position: int, bracket: str) -> int:
    """Step over the comma after a value; stay before a closing bracket."""
    if comma := _COMMA.match(text, position):
        return comma.end()
    position = _skip(text, position)
    if text[position : position + 1] == ",":
        if _closed(text, position + 1, bracket):
            _fail("Illegal trailing comma", text, position)
        return position + 1
    if text[position : position + 1] != bracket:
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
