"""h11's reading of a byte stream, in the role of a server that answers every request at once."""

from __future__ import annotations

from typing import NamedTuple

import h11

from tests.support.reading.corpus import Message
from tests.support.reading.echo import end_to_end

_LIMIT = 1024 * 1024
_ANSWER = h11.Response(status_code=200, headers=[(b"content-length", b"0")])


class Reading(NamedTuple):
    """The complete messages, and whether what follows them is wrong."""

    messages: tuple[Message, ...]
    is_refused: bool


def read(stream: bytes) -> Reading:
    """Return what h11 makes of the bytes."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LIMIT)
    connection.receive_data(stream)
    messages: list[Message] = []
    try:
        while (request := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            assert isinstance(request, h11.Request), request
            body = _body(connection)
            if body is None:
                break
            messages.append(_message(request, body))
            if request.method == b"CONNECT":
                break  # a tunnel
            connection.send(_ANSWER)
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                break
            connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return Reading(tuple(messages), is_refused=True)
    return Reading(tuple(messages), is_refused=False)


def _body(connection: h11.Connection) -> bytes | None:
    """Return a request's body; None if it is not complete."""
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    return body if isinstance(event, h11.EndOfMessage) else None


def _message(request: h11.Request, body: bytes) -> Message:
    target = request.target.decode("latin-1")
    authority, path = split(target)
    headers = end_to_end((name, value.strip(b" \t")) for name, value in request.headers)
    if authority is not None:
        # It goes before Host (RFC 9112 §3.2.2).
        headers = tuple((name, authority if name == "host" else value) for name, value in headers)
    return Message(request.method.decode(), path, body, headers)


def split(target: str) -> tuple[str | None, str]:
    """Return the server that a target names, if it does, and the path and query."""
    scheme, separator, rest = target.partition("://")
    authority = None
    if separator and "/" not in scheme and "?" not in scheme:
        at = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        authority, target = rest[:at], rest[at:] if rest[at:].startswith("/") else "/" + rest[at:]
    path, _, query = target.partition("?")
    return authority, f"{path}?{query}" if query else path  # ASGI does not tell an empty query from none
