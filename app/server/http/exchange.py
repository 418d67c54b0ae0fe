"""One HTTP request and its answer, between a connection and an ASGI application.

uvicorn's own writes the header lines and the body of an answer apart: two system calls, which cost more than all the
rest of a short answer. Here the header lines wait for the first piece of the body, as the ASGI specification asks,
and leave with it.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Protocol

from uvicorn.config import Config

from app.core.ports import Heartbeat, Peer, Writer
from app.server.asgi import Application, Event
from app.server.http.forwarded import Address
from app.wire.http1 import (
    CHUNKED,
    CLOSE,
    LAST_CHUNK,
    WITHOUT_BODY,
    Headers,
    chunk,
    header_block,
    known_block,
    response_head,
)
from app.wire.request_head import RequestHead

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_END = b"\r\n"
_MOST_PIECES = 64

_logger = logging.getLogger("uvicorn.error")


class ExchangeConnection(Protocol):
    """What an exchange needs from its connection."""

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""

    def is_full(self) -> bool:
        """Whether the buffer is over its limit; ``Exchange.writable`` is called when it has room."""

    def read_on(self) -> None:
        """Read, if reading was paused."""

    def close(self) -> None:
        """End the connection when everything written has left."""

    def answered(self) -> None:
        """Go on to the next request."""

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Leave the answer, which begins with the bytes ``head``, to ``peer``; no other request follows."""

    @property
    def default_headers(self) -> Headers:
        """The headers of every answer."""


class _AnswerPhase(Enum):
    WAITING = auto()  # for the start of the answer
    STARTED = auto()  # the header lines are made, and have not left
    UNDER_WAY = auto()  # the header lines have left
    HANDED_OVER = auto()
    COMPLETE = auto()
    GONE = auto()  # the connection is lost, with or without an answer


_OVER = (_AnswerPhase.HANDED_OVER, _AnswerPhase.COMPLETE, _AnswerPhase.GONE)
"""Phases in which the application can receive nothing more, and need send nothing more."""


class Exchange:
    """The ``receive`` and ``send`` of one request, until the application returns."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_head",
        "_is_1_0",
        "_is_head",
        "_left",
        "_more",
        "_news",
        "_phase",
        "_room",
        "_size",
        "_taken",
        "awaits_continue",
        "keep_alive",
    )

    def __init__(
        self, connection: ExchangeConnection, *, is_head: bool, is_1_0: bool, keep_alive: bool, awaits_continue: bool
    ) -> None:
        self._connection = connection
        self._is_head = is_head
        self._is_1_0 = is_1_0
        self.keep_alive = keep_alive
        """Whether the connection is to outlive the answer."""
        self.awaits_continue = awaits_continue
        """Whether the peer waits to be told that its body is wanted."""
        self._body: list[bytes] = []  # what has come of it since the last receive
        self._size = 0  # of that, in bytes
        self._more = True  # whether more of it is to come
        self._taken = False  # whether the application has received all of it
        self._phase = _AnswerPhase.WAITING
        self._head = b""  # the header lines; valid while STARTED
        self._chunked = False
        self._left = 0  # bytes that the body still owes to its Content-Length; valid unless chunked
        self._news: asyncio.Event | None = None  # set when there is something to receive; made by the call that waits
        self._room: asyncio.Event | None = None  # set when the connection is no longer full

    async def run(self, app: Application, scope: Event) -> None:
        """Let the application answer; answer 500 if it fails."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            _logger.exception("Exception in ASGI application")
            self._fail()
        except BaseException:
            self._fail()
            raise
        else:
            if self._phase not in _OVER:
                _logger.error("ASGI application returned without completing its answer")
                self._fail()

    def _fail(self) -> None:
        """Answer 500, or break off an answer that is under way."""
        if self._phase in (_AnswerPhase.WAITING, _AnswerPhase.STARTED):
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            body = b"Internal Server Error"
            self._chunked = False
            self._start({"status": 500, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
            self._continue({"body": body})
        elif self._phase in (_AnswerPhase.UNDER_WAY, _AnswerPhase.HANDED_OVER):
            self._connection.close()

    # What the application calls.

    async def receive(self) -> Event:
        """Return what has come of the body; after its end, wait until the connection or the answer ends."""
        if self.awaits_continue:
            self._connection.write(_CONTINUE)
            self.awaits_continue = False
        while self._phase not in _OVER:
            if not self._taken and (self._body or not self._more):
                body, self._body, self._size = b"".join(self._body), [], 0
                self._taken = not self._more
                return {"type": "http.request", "body": body, "more_body": self._more}
            self._connection.read_on()
            if self._news is None:
                self._news = asyncio.Event()
            await self._news.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        """Take a piece of the answer; return when the connection has room for it.

        It is dropped if the connection is lost. Raises RuntimeError for an event out of order and for a body that is
        not as long as announced, ValueError for headers that HTTP does not allow.
        """
        while self._connection.is_full() and self._phase is not _AnswerPhase.GONE:
            if self._room is None:
                self._room = asyncio.Event()
            await self._room.wait()
        kind, phase = event["type"], self._phase
        if phase is _AnswerPhase.GONE:
            return
        if kind == "http.response.start" and phase is _AnswerPhase.WAITING:
            self._start(event)
        elif kind == "http.response.body" and phase in (_AnswerPhase.STARTED, _AnswerPhase.UNDER_WAY):
            self._continue(event)
        else:
            msg = f"ASGI event {kind!r} is out of order: the answer is {phase.name.lower().replace('_', ' ')}"
            raise RuntimeError(msg)

    def hand_over(self, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Leave the rest of the answer to ``peer``; this is the :class:`~app.core.ports.ResponseHandover`.

        Raises RuntimeError unless called once, after ``http.response.start`` for an answer in chunks.
        """
        if self._phase is not _AnswerPhase.GONE:
            if self._phase is not _AnswerPhase.STARTED or not self._chunked:
                msg = "a response can be handed over once, after http.response.start, and without a Content-Length"
                raise RuntimeError(msg)
            self._phase = _AnswerPhase.HANDED_OVER
            self._wake()
        head, self._head = self._head, b""
        if self.keep_alive:
            head = head.removesuffix(_END) + CLOSE + _END
        return self._connection.hand_over(head, peer, heartbeat)

    def _start(self, event: Event) -> None:
        """Make the header lines. A body without a length comes in chunks; before HTTP/1.1 its connection ends it."""
        status: int = event["status"]
        server, theirs = known_block(tuple(self._connection.default_headers)), header_block(event.get("headers", ()))
        length = server.length if theirs.length is None else theirs.length
        self.keep_alive = self.keep_alive and not (server.closes or theirs.closes)
        self._chunked = length is None and not self._is_head and status not in WITHOUT_BODY
        lines = server.lines + theirs.lines + (CHUNKED if self._chunked and not self._is_1_0 else b"")
        self._head = response_head(status, lines, keep_alive=self.keep_alive)
        self._left = length or 0
        self.awaits_continue = False
        self._phase = _AnswerPhase.STARTED

    def _continue(self, event: Event) -> None:
        more = event.get("more_body", False)
        data = self._framed(event.get("body", b""), more=more)
        if self._phase is _AnswerPhase.STARTED:
            data, self._head = self._head + data, b""
            self._phase = _AnswerPhase.UNDER_WAY
        if data:
            self._connection.write(data)
        if not more:
            self._phase = _AnswerPhase.COMPLETE
            self._wake()
            if not self.keep_alive:
                self._connection.close()
            self._connection.answered()

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        """Frame a piece of the body. Raises RuntimeError if the body is not as long as announced."""
        if self._is_head:
            return b""
        if self._chunked:
            if self._is_1_0:
                return body
            data = chunk(body) if body else b""
            return data if more else data + LAST_CHUNK
        self._left -= len(body)
        if self._left < 0 or (self._left and not more):
            msg = f"the answer's body is {'longer' if self._left < 0 else 'shorter'} than its Content-Length"
            raise RuntimeError(msg)
        return body

    # What the connection calls.

    def feed(self, body: bytes) -> int:
        """Take a piece of the request's body; return the bytes that wait for the application."""
        if self._phase is _AnswerPhase.COMPLETE:
            return 0
        if len(self._body) == _MOST_PIECES:  # or pieces of one byte each would take fifty times their size
            self._body = [b"".join(self._body)]
        self._body.append(body)
        self._size += len(body)
        self._wake()
        return self._size

    def end(self) -> None:
        """Note that the request's body is complete."""
        self._more = False
        self._wake()

    def writable(self) -> None:
        """Let the application send again."""
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def withdraw(self) -> bool:
        """Drop a request whose body turned out to be wrong; return whether nothing of its answer has left yet."""
        is_unanswered = self._phase in (_AnswerPhase.WAITING, _AnswerPhase.STARTED)
        self.disconnect()
        return is_unanswered

    def disconnect(self) -> None:
        """Note that the connection is lost."""
        self._phase = _AnswerPhase.GONE
        self._wake()
        self.writable()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set()


def scope_of(
    head: RequestHead,
    config: Config,
    server: tuple[str, int | None] | None,
    client: Address | None,
    is_tls: bool,  # noqa: FBT001 — the peer's
) -> Event:
    """Return the ASGI scope of a request, without its ``state``."""
    path, raw_path, query = head.target
    root_path = config.root_path
    return {
        "type": "http",
        "asgi": {"version": config.asgi_version, "spec_version": "2.3"},
        "http_version": head.version,
        "server": server,
        "client": client,
        "scheme": "https" if is_tls else "http",
        "root_path": root_path,
        "method": head.method.decode("ascii"),
        "path": root_path + path,
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query,
        "headers": list(head.headers),
    }
