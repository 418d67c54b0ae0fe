"""Request heads of handshakes that were read before. Those of many clients differ in three places only."""

from __future__ import annotations

import string
from typing import Generic, NamedTuple, TypeVar

from app.wire.http1 import Headers

MOST_HEADS = 500
LONGEST_HEAD = 4096
"""The most remembered request heads, and the most bytes of one that is remembered or found: parts of a longer one may
be too long."""

T = TypeVar("T")

_KEYS = (b"\r\nSec-WebSocket-Key: ", b"\r\nsec-websocket-key: ")
_KEY_LENGTH = 24
BEARERS = (b"\r\nAuthorization: Bearer ", b"\r\nauthorization: Bearer ")
_PROTOCOLS = (b"\r\nSec-WebSocket-Protocol: ", b"\r\nsec-websocket-protocol: ")
_BEARER = b"bearer."
"""How a subprotocol with a credential begins: browsers can send no Authorization with a handshake."""
_VERSION = b" HTTP/1.1\r\n"
END = b"\r\n\r\n"
OF_TOKENS = string.ascii_letters.encode() + string.digits.encode() + b"-._~+/="
"""The characters of a bearer token (RFC 6750 §2.1)."""
_OF_PROTOCOLS = OF_TOKENS.replace(b"/", b"").replace(b"=", b"")
"""Those of them that a subprotocol may have."""
_OF_QUERIES = bytes(range(0x21, 0x7F)).replace(b"#", b"")


class Differing(NamedTuple):
    """What differs between the handshakes of one kind of client."""

    key: bytes
    """The value of Sec-WebSocket-Key, which may be no valid key."""
    query: bytes
    """The query of the target; empty without one."""
    bearer: bytes | None
    """The credential of ``Authorization: Bearer``, or else of the subprotocol ``bearer.…``; None where the request head
    has another form of it, or none."""


class KnownHandshakes(Generic[T]):
    """Maps request heads to what they mean: those of one kind mean the same but for their :class:`Differing` parts."""

    def __init__(self) -> None:
        self._known: dict[bytes, T] = {}
        """By a head without its differing parts."""

    def find(self, data: bytes) -> tuple[T, Differing] | None:
        """Return what a handshake means, and its differing parts, if ``data`` is one whole head of a known kind."""
        parts = _cut(data)
        if parts is None:
            return None
        known = self._known.get(parts[0])
        return None if known is None else (known, parts[1])

    def remember(self, data: bytes, headers: Headers, meaning: T) -> None:
        """Remember what a handshake means, if ``data`` is one whole head; ``headers`` are what it has."""
        if data.find(END) != len(data) - len(END):
            return
        parts = _cut(data)
        if parts is None or (parts[1].bearer is not None and not _has_one_bearer(headers)):
            return
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        self._known[parts[0]] = meaning


def _cut(data: bytes) -> tuple[bytes, Differing] | None:
    """Return a request head without its differing parts, and these; None for one that is not remembered.

    The parts can be put back in one way only, so two heads of one kind are equal but for them. They have only
    characters that may be in their place, so that both are valid, or none is.
    """
    at = behind(_KEYS, data) if len(data) <= LONGEST_HEAD else 0
    if not at:
        return None
    end = at + _KEY_LENGTH
    key, rest = data[at:end], data[:at] + data[end:]
    bearer = None
    at, end, allowed = _place_of_bearer(rest)
    if at:
        bearer, rest = rest[at:end], rest[:at] + rest[end:]
        if bearer.translate(None, allowed):
            return None
    found = cut_query(rest)
    return None if found is None else (found[0], Differing(key, found[1], bearer))


def cut_query(head: bytes) -> tuple[bytes, bytes] | None:
    """Return a request head without its query, and the query; None if that has what no query may have."""
    end = head.find(_VERSION)
    at = head.find(b"?", 0, end) + 1
    if not at:
        return head, b""
    query = head[at:end]
    return None if query.translate(None, _OF_QUERIES) else (head[:at] + head[end:], query)


def behind(texts: tuple[bytes, ...], data: bytes) -> int:
    """Return where the first of the texts that is there ends; 0 if there is none."""
    for text in texts:
        at = data.find(text)
        if at >= 0:
            return at + len(text)
    return 0


def _place_of_bearer(head: bytes) -> tuple[int, int, bytes]:
    """Return where the credential begins and ends, and its characters; zeros if it has none in a known form."""
    at = behind(BEARERS, head)
    if at:
        return at, head.find(b"\r\n", at), OF_TOKENS
    begin = behind(_PROTOCOLS, head)
    if begin:
        end = head.find(b"\r\n", begin)
        at = head.find(_BEARER, begin, end)
        if at >= 0 and head[at - 1 : at] == b" ":
            comma = head.find(b",", at, end)
            return at + len(_BEARER), end if comma < 0 else comma, _OF_PROTOCOLS
    return 0, 0, b""


def _has_one_bearer(headers: Headers) -> bool:
    """Whether there is one credential only: which one counts is the application's business."""
    authorizations = [value for name, value in headers if name == b"authorization"]
    protocols = [value for name, value in headers if name == b"sec-websocket-protocol"]
    bearers = sum(value.count(_BEARER) for value in protocols)
    return len(authorizations) + bearers == 1 and len(protocols) <= 1
