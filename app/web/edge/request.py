"""Reads requests: headers by name, the query, and the body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.types import Receive, Scope

from app.core.errors import MalformedError, NoRoomError, TooLargeError
from app.core.ports import Intake
from app.web.edge.auth import peer

MAX_PARAMETERS = 100
"""The most parameters of a query."""

_SINGLE = (
    "authorization", "content-encoding", "content-length", "content-type", "idempotency-key", "last-event-id", "origin",
)  # fmt: skip
"""Headers that this server reads, and that may have only one value."""

_PARAMETERS = ("since", "last", "limit", "wait", "heartbeat")
"""Query parameters that this server reads."""


class Incoming:
    """One request, with its headers :func:`by_name`.

    Starlette's Request can do far more, and takes longer to create than a push takes to serve.
    """

    __slots__ = ("_held", "_intake", "_receive", "headers", "path", "peer")

    def __init__(self, scope: Scope, receive: Receive, intake: Intake) -> None:
        """Read the headers; raise as :func:`by_name` does."""
        self.path = get_route_path(scope)
        self.headers = by_name(scope["headers"])
        self.peer = peer(scope)
        self._receive = receive
        self._intake = intake
        self._held = 0
        """Bytes of the body that are counted in the intake."""

    async def body(self, limit: int) -> bytes:
        """Return the body; the intake counts it until :meth:`release`.

        Raises :class:`TooLargeError` as soon as the body is known to exceed ``limit`` bytes, :class:`NoRoomError` if
        the bodies of all clients together exceed the intake, and :class:`MalformedError` if the client disconnects
        before the end.
        """
        if self._announced() > limit:
            raise _too_large(limit)
        body: bytes | bytearray = b""
        more = True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                msg = "the client disconnected before its request was complete"
                raise MalformedError(msg)
            piece = event.get("body", b"")
            self._hold(len(piece), limit)
            body = grown(body, piece)
            more = event.get("more_body", False)
        return bytes(body)

    def release(self) -> None:
        """Stop counting the body in the intake."""
        self._intake.release(self._held)
        self._held = 0

    def _announced(self) -> int:
        length = self.headers.get("content-length", "0")
        return int(length[:20]) if length.isascii() and length.isdigit() else 0

    def _hold(self, size: int, limit: int) -> None:
        if self._held + size > limit:
            raise _too_large(limit)
        if not self._intake.grow(self._held, size):
            msg = "the server holds too many unfinished messages: send this one again later"
            raise NoRoomError(msg)
        self._held += size


def grown(body: bytes | bytearray, piece: bytes) -> bytes | bytearray:
    """Return a body with one more piece; without a copy if it is the first.

    One growing buffer, because a list of pieces of one byte each would need fifty times their size.
    """
    if not body:
        return piece
    if not piece:
        return body
    if isinstance(body, bytes):
        body = bytearray(body)
    body += piece
    return body


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the values by name in lower case, without blanks around them; the first of a repeated header.

    Raises :class:`MalformedError` if a header of :data:`_SINGLE` appears twice with different values.
    """
    found = {name.decode("latin-1"): value.decode("latin-1").strip(" \t") for name, value in reversed(headers)}
    if len(found) != len(headers):
        _check_single(headers, found)
    return found


def query_of(scope: Scope) -> dict[str, str]:
    """Return the query parameters; raise :class:`MalformedError` for too many, or if one of ours appears twice."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        msg = f"the query has more than {MAX_PARAMETERS} parameters"
        raise MalformedError(msg) from None
    counts = Counter(name for name, _ in pairs)
    for name in _PARAMETERS:
        if counts[name] > 1:
            msg = f"the parameter {name!r} appears twice in the query"
            raise MalformedError(msg)
    return dict(pairs)


def _check_single(headers: Sequence[tuple[bytes, bytes]], found: Mapping[str, str]) -> None:
    for name in _SINGLE:
        raw = name.encode()
        if any(value.decode("latin-1").strip(" \t") != found[name] for other, value in headers if other == raw):
            msg = f"the header {name!r} appears twice with different values"
            raise MalformedError(msg)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than the limit of {limit} bytes")
