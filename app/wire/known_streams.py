"""Request heads of event streams that were read before. Those of many clients differ in three places only."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from app.wire.http1 import Headers
from app.wire.known_handshakes import BEARERS, END, LONGEST_HEAD, MOST_HEADS, OF_TOKENS, behind, cut_query

T = TypeVar("T")

_METHOD = b"GET "
_STREAM = b"text/event-stream"
_LAST_EVENTS = (b"\r\nLast-Event-ID: ", b"\r\nlast-event-id: ", b"\r\nLast-Event-Id: ")
_OF_IDS = OF_TOKENS + b":"
"""The characters of a position."""


class DifferingStream(NamedTuple):
    """What differs between the requests of one kind of client; None where a head has none, or another form of it."""

    query: bytes
    """The query of the target; empty without one."""
    bearer: bytes | None
    """The credential of ``Authorization: Bearer``."""
    last_event: bytes | None
    """The value of Last-Event-ID."""


class KnownStreams(Generic[T]):
    """Maps request heads to what they mean, as :class:`~app.wire.known_handshakes.KnownHandshakes` does."""

    def __init__(self) -> None:
        self._known: dict[bytes, T] = {}
        """By a head without its differing parts."""

    def find(self, data: bytes) -> tuple[T, DifferingStream] | None:
        """Return what a request means, and its differing parts, if ``data`` is one whole head of a known kind."""
        parts = _cut(data) if self._known else None
        if parts is None:
            return None
        known = self._known.get(parts[0])
        return None if known is None else (known, parts[1])

    def remember(self, data: bytes, headers: Headers, meaning: T) -> None:
        """Remember what a request means, if ``data`` is one whole head; ``headers`` are what it has."""
        parts = _cut(data)
        if parts is None or data.find(END) != len(data) - len(END):
            return
        names = [name for name, _ in headers]
        if names.count(b"authorization") > 1 or names.count(b"last-event-id") > 1:
            return  # which one counts is the application's business
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        self._known[parts[0]] = meaning


def _cut(data: bytes) -> tuple[bytes, DifferingStream] | None:
    """Return a request head without its differing parts, and these; None for one that is not remembered.

    The parts can be put back in one way only, and have only characters that may be in their place.
    """
    if len(data) > LONGEST_HEAD or not data.startswith(_METHOD) or _STREAM not in data:
        return None
    bearer, rest = _cut_value(BEARERS, data)
    last_event, rest = _cut_value(_LAST_EVENTS, rest)
    if (bearer and bearer.translate(None, OF_TOKENS)) or (last_event and last_event.translate(None, _OF_IDS)):
        return None
    found = cut_query(rest)
    return None if found is None else (found[0], DifferingStream(found[1], bearer, last_event))


def _cut_value(names: tuple[bytes, ...], head: bytes) -> tuple[bytes | None, bytes]:
    """Return the value of a header, None without it, and the head without the value."""
    at = behind(names, head)
    if not at:
        return None, head
    end = head.find(b"\r\n", at)
    return head[at:end], head[:at] + head[end:]
