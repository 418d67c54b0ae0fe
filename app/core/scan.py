"""Checks JSON texts of any size in steps that each take a few milliseconds.

The standard library's scanner blocks the event loop until it has read a whole text, and builds an object for each
value: 64 KiB take two milliseconds, 8 MiB a third of a second and some hundred MiB of memory. This scanner builds
nothing, and lets others run at each ``yield``.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Callable
from typing import NoReturn

from app.core.errors import MalformedError, TooLargeError
from app.core.turns import Pace, Steps

MAX_DEPTH = 128
"""How many levels deep arrays and objects may be nested."""

WINDOW = 16 * 1024
"""Bytes that one match covers at most: less than a millisecond."""

_SPACE = rb"[ \t\n\r]*+"
_PIECE = rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+'
_STRING = rb'"' + _PIECE + rb'"'
_BARE = rb"(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null)"
_ATOM = rb"(?:" + _STRING + rb"|" + _BARE + rb")"
_NAME = _STRING + _SPACE + rb":" + _SPACE


def _container(value: bytes) -> bytes:
    """Return the pattern of an array or object whose values match ``value``."""
    array = rb"\[%b(?:%b%b(?:,(?!%b\])%b|(?=\])))*+\]" % (_SPACE, value, _SPACE, _SPACE, _SPACE)
    members = rb"\{%b(?:%b%b%b(?:,(?!%b\})%b|(?=\})))*+\}" % (_SPACE, _NAME, value, _SPACE, _SPACE, _SPACE)
    return rb"(?:" + array + rb"|" + members + rb")"


_DEEPEST = 3
"""Levels of containers that one match covers at most."""

_VALUES = [_ATOM]
"""Patterns of values by the most levels that they are nested."""
for _ in range(_DEEPEST):
    _VALUES.append(rb"(?:" + _ATOM + rb"|" + _container(_VALUES[-1]) + rb")")

_WHOLE = [
    re.compile(rb"(?!(?:%b[\[{]){%d})(?=[\[{])%b" % (_SPACE, levels + 1, value)) for levels, value in enumerate(_VALUES)
]
"""A whole container, by the most levels it may have."""
_ITEMS = [re.compile(rb"(?:%b%b%b,)*+" % (_SPACE, value, _SPACE)) for value in _VALUES]
_MEMBERS = [re.compile(rb"(?:%b%b%b%b,)*+" % (_SPACE, _NAME, value, _SPACE)) for value in _VALUES]
"""Any number of items or members that are each followed by a comma."""
_SKIP, _PIECES, _SCALAR = re.compile(_SPACE), re.compile(_PIECE), re.compile(_BARE)

Members = dict[str, str]

_CLOSERS = {ord("["): ord("]"), ord("{"): ord("}")}
_ARRAY_END, _OBJECT_END, _COMMA, _COLON, _QUOTE = b']},:"'


class Scan:
    """A scan of one text, value by value. A position is an offset in bytes."""

    __slots__ = ("_closers", "_deepest", "_end", "_most", "_pace", "_text")

    def __init__(self, text: bytes, most: int, pace: Pace, deepest: int = MAX_DEPTH) -> None:
        """Limit each value to ``most`` bytes and ``deepest`` levels of nesting."""
        self._text = text
        self._pace = pace
        self._most = most
        self._deepest = deepest
        self._end = 0
        """Where the value that is being scanned must have ended."""
        self._closers = bytearray()
        """What closes the open containers, the innermost last; then a quote inside a string, and a colon and a quote
        inside a name."""

    def whole(self) -> Steps[None]:
        """Raise :class:`MalformedError` unless the text is one value."""
        yield from self._check_utf8()
        position = yield from self._value(self._skip(0))
        if self._skip(position) != len(self._text):
            self._fail("unexpected text after the value", position)

    def items(self, most: int) -> Steps[list[slice]]:
        """Return where each item of an array is.

        Raises :class:`MalformedError` as soon as there are more than ``most`` items, and :class:`TooLargeError` as
        soon as an item is too large.
        """
        yield from self._check_utf8()
        found: list[slice] = []
        position = self._enter(b"[", "an array")
        while found or self._at(position) != _ARRAY_END:
            if len(found) == most:
                msg = f"the array has more than {most} items: send at most {most} at once"
                raise MalformedError(msg)
            end = yield from self._value(position)
            found.append(slice(position, end))
            position = self._skip(end)
            if self._at(position) != _COMMA:
                break
            position = self._skip(position + 1)
        self._leave(position, _ARRAY_END)
        return found

    def members(self, take: Callable[[bytes, Members], str]) -> Steps[Members]:
        """Return the members of an object, each value as its JSON text.

        ``take`` gets the JSON text of a name and the members before it, and returns the name or raises. Raises
        :class:`MalformedError`, and :class:`TooLargeError` as soon as a value is too large.
        """
        yield from self._check_utf8()
        found: Members = {}
        position = self._enter(b"{", "an object")
        while found or self._at(position) != _OBJECT_END:
            if self._at(position) != _QUOTE:
                self._fail("a name in double quotes is missing", position)
            end = yield from self._value(position)
            name = take(self._text[position:end], found)
            position = self._skip(end)
            if self._at(position) != _COLON:
                self._fail("':' is missing", position)
            position = self._skip(position + 1)
            end = yield from self._value(position)
            found[name] = self._text[position:end].decode()
            position = self._skip(end)
            if self._at(position) != _COMMA:
                break
            position = self._skip(position + 1)
        self._leave(position, _OBJECT_END)
        return found

    def _check_utf8(self) -> Steps[None]:
        """Raise :class:`MalformedError` unless the text is UTF-8."""
        decoder = getincrementaldecoder("utf-8")()
        for begin in range(0, len(self._text), WINDOW):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(self._text[begin : begin + WINDOW], final=begin + WINDOW >= len(self._text))
            except UnicodeDecodeError as error:
                raise not_utf8(self._text, begin - pending + error.start) from None
            yield from self._pace.pause()

    def _skip(self, position: int) -> int:
        """Return the position of the next byte that is not white space."""
        match = _SKIP.match(self._text, position)
        return match.end() if match else position

    def _at(self, position: int) -> int:
        """Return the byte at a position; -1 at the end of the text."""
        return self._text[position] if position < len(self._text) else -1

    def _enter(self, bracket: bytes, what: str) -> int:
        """Return the position after the opening bracket and white space; raise unless ``what`` begins here."""
        position = self._skip(0)
        if not self._text.startswith(bracket, position):
            msg = f"expected {what}"
            raise MalformedError(msg)
        return self._skip(position + 1)

    def _leave(self, position: int, bracket: int) -> None:
        """Raise unless the container ends here, and the text with it."""
        if self._at(position) != bracket:
            self._fail(f"',' or {chr(bracket)!r} is missing", position)
        if self._skip(position + 1) != len(self._text):
            self._fail("unexpected text after the value", position + 1)

    def _value(self, position: int) -> Steps[int]:
        """Return the end of the value that begins at ``position``."""
        self._closers.clear()
        self._end = min(len(self._text), position + self._most + 1)
        step: _Step | None = self._begin
        while step is not None:
            step, position = step(position)
            if position >= self._end < len(self._text):
                msg = f"a message with its envelope may have at most {self._most} bytes: this one has more"
                raise TooLargeError(msg)
            if self._pace.is_over():
                yield
                self._pace.begin()
        return position

    def _fail(self, message: str, position: int) -> NoReturn:
        """Raise :class:`MalformedError`."""
        msg = f"not JSON: {message} at byte {position}"
        raise MalformedError(msg)

    # The steps: each takes a position, and returns the next step and its position; the step is None when the value is
    # over.

    def _begin(self, position: int) -> _Next:
        """Match a value, or its beginning."""
        byte = self._at(position)
        if byte == _QUOTE:
            self._closers.append(_QUOTE)
            return self._string, position + 1
        if byte in _CLOSERS:
            return self._open(position)
        scalar = _SCALAR.match(self._text, position, self._end)
        if scalar is None:
            self._fail("a value is missing", position)
        return self._after, scalar.end()

    def _open(self, position: int) -> _Next:
        """Match a whole container if it fits the window and is not deep; otherwise go to its first value."""
        text, closers = self._text, self._closers
        while (byte := self._at(position)) in _CLOSERS:
            levels = min(_DEEPEST, self._deepest - len(closers))
            if levels == 0:
                raise too_deep(position)
            if whole := _WHOLE[levels].match(text, position, min(position + WINDOW, self._end)):
                return self._after, whole.end()
            closers.append(_CLOSERS[byte])
            position += 1
            if closers[-1] == _OBJECT_END:
                break
            position = self._skip(position)
        return self._fill, position

    def _fill(self, position: int) -> _Next:
        """Match the values that fit the window, after a container's bracket or a comma; then go to the next value."""
        text, closer = self._text, self._closers[-1]
        levels = min(_DEEPEST, self._deepest - len(self._closers))
        pattern = (_ITEMS if closer == _ARRAY_END else _MEMBERS)[levels]
        run = pattern.match(text, position, min(position + WINDOW, self._end))
        position = run.end() if run else position
        may_close = text[position - 1] != _COMMA
        position = self._skip(position)
        if may_close and self._at(position) == closer:
            self._closers.pop()
            return self._after, position + 1
        if closer == _ARRAY_END:
            return self._begin, position
        if self._at(position) != _QUOTE:
            self._fail("a name in double quotes is missing", position)
        self._closers += b':"'
        return self._string, position + 1

    def _string(self, position: int) -> _Next:
        """Match as much of a string as fits the window."""
        pieces = _PIECES.match(self._text, position, min(position + WINDOW, self._end))
        end = pieces.end() if pieces else position
        if self._at(end) == _QUOTE:
            self._closers.pop()
            return self._after, end + 1
        if end == position:
            self._fail("a string has a character that needs an escape, an unknown escape, or no end", position)
        return self._string, end

    def _after(self, position: int) -> _Next:
        """Match what follows a value or a name: closing brackets, a colon or a comma."""
        closers = self._closers
        while closers:
            position = self._skip(position)
            byte, closer = self._at(position), closers[-1]
            if byte == closer:
                closers.pop()
                position += 1
                if byte == _COLON:
                    return self._begin, self._skip(position)
            elif byte == _COMMA and closer != _COLON:
                return self._fill, position + 1
            else:
                self._fail(f"{chr(closer)!r} is missing", position)
        return None, position


_Step = Callable[[int], "_Next"]
_Next = tuple[_Step | None, int]


def too_deep(position: int) -> MalformedError:
    """Return the error for a value that is nested too deep."""
    return MalformedError(f"the JSON is nested more than {MAX_DEPTH} deep at byte {position}")


def not_utf8(text: bytes, position: int) -> MalformedError:
    """Return the error for a text that is not UTF-8."""
    return MalformedError(f"the body is not UTF-8: byte {position} is {text[position]:#04x}")
