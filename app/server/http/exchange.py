"""One HTTP request and its answer, between a connection and an ASGI application.

In place of uvicorn's own, which writes the head and the body of an answer in two pieces. A system
call each, that costs more than all the rest of a short answer. Here the head waits for the first
piece of the body, as the ASGI specification asks, and leaves with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum, auto
from typing import Any, Protocol

from app.core.ports import Heartbeat, Peer, Writer
from app.wire.http1 import CHUNKED, CLOSE, WITHOUT_BODY, Headers, header_block, known_block, response_head

Event = MutableMapping[str, Any]
Application = Callable[..., Awaitable[Any]]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_END = b"\r\n"
_MOST_PIECES = 64

_logger = logging.getLogger("uvicorn.error")


class Connection(Protocol):
    """What a cycle asks of its connection."""

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""

    def is_full(self) -> bool:
        """Whether more is buffered than should be added to; ``Cycle.drained`` ends it."""

    def read_on(self) -> None:
        """Read, if reading was paused."""

    def close(self) -> None:
        """End the connection when what was written has left."""

    def answered(self) -> None:
        """Go on to the next request."""

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Leave the answer, which begins with ``head``, to ``peer``; no other request follows."""

    @property
    def default_headers(self) -> Headers:
        """What stands in every answer."""


class _Phase(Enum):
    WAITING = auto()  # for the start of the answer
    STARTED = auto()  # the head is made, and has not left
    UNDER_WAY = auto()  # the head has left
    HANDED_OVER = auto()
    COMPLETE = auto()
    GONE = auto()  # the connection is, with or without an answer


_OVER = (_Phase.HANDED_OVER, _Phase.COMPLETE, _Phase.GONE)
"""The application has nothing more to receive, and owes nothing."""


class Cycle:
    """The ``receive`` and ``send`` of one request; gone when the application has returned."""

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
        self, connection: Connection, *, is_head: bool, is_1_0: bool, keep_alive: bool, awaits_continue: bool
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
        self._phase = _Phase.WAITING
        self._head = b""  # valid in Phase.STARTED
        self._chunked = False
        self._left = 0  # bytes that the body still owes to its Content-Length; valid unless chunked
        self._news: asyncio.Event | None = None  # set when there is something to receive; made by who waits
        self._room: asyncio.Event | None = None  # set when the connection is no longer full

    async def run(self, app: Application, scope: Event) -> None:
        """Let the application answer, and answer in its place if it fails."""
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
        """Answer 500, or break an answer off that is under way."""
        if self._phase in (_Phase.WAITING, _Phase.STARTED):
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            body = b"Internal Server Error"
            self._chunked = False
            self._start({"status": 500, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
            self._continue({"body": body})
        elif self._phase in (_Phase.UNDER_WAY, _Phase.HANDED_OVER):
            self._connection.close()

    # What the application calls.

    async def receive(self) -> Event:
        """Return what has come of the body; after its end, wait for that of the connection or the answer."""
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
        """Take a piece of the answer; returns when the connection has room for more.

        What comes when the connection is gone is dropped. Raises RuntimeError for an event out of
        order and a body that is not as long as announced, ValueError for headers that HTTP does not allow.
        """
        while self._connection.is_full() and self._phase is not _Phase.GONE:
            if self._room is None:
                self._room = asyncio.Event()
            await self._room.wait()
        kind, phase = event["type"], self._phase
        if phase is _Phase.GONE:
            return
        if kind == "http.response.start" and phase is _Phase.WAITING:
            self._start(event)
        elif kind == "http.response.body" and phase in (_Phase.STARTED, _Phase.UNDER_WAY):
            self._continue(event)
        else:
            msg = f"ASGI event {kind!r} is out of order: the answer is {phase.name.lower().replace('_', ' ')}"
            raise RuntimeError(msg)

    def hand_over(self, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Leave the rest of the answer to ``peer``: the :class:`~app.core.ports.ResponseHandover`.

        Raises RuntimeError unless called once, after ``http.response.start`` for an answer in chunks.
        """
        if self._phase is not _Phase.GONE:
            if self._phase is not _Phase.STARTED or not self._chunked:
                msg = "a response is handed over once, after http.response.start, and in chunks"
                raise RuntimeError(msg)
            self._phase = _Phase.HANDED_OVER
            self._wake()
        head, self._head = self._head, b""
        if self.keep_alive:
            head = head.removesuffix(_END) + CLOSE + _END
        return self._connection.hand_over(head, peer, heartbeat)

    def _start(self, event: Event) -> None:
        """Make the head. A body without a length comes in chunks; before HTTP/1.1 it ends with its connection."""
        status: int = event["status"]
        server, theirs = known_block(tuple(self._connection.default_headers)), header_block(event.get("headers", ()))
        length = server.length if theirs.length is None else theirs.length
        self.keep_alive = self.keep_alive and not (server.closes or theirs.closes)
        self._chunked = length is None and not self._is_head and status not in WITHOUT_BODY
        lines = server.lines + theirs.lines + (CHUNKED if self._chunked and not self._is_1_0 else b"")
        self._head = response_head(status, lines, keep_alive=self.keep_alive)
        self._left = length or 0
        self.awaits_continue = False
        self._phase = _Phase.STARTED

    def _continue(self, event: Event) -> None:
        more = event.get("more_body", False)
        data = self._framed(event.get("body", b""), more=more)
        if self._phase is _Phase.STARTED:
            data, self._head = self._head + data, b""
            self._phase = _Phase.UNDER_WAY
        if data:
            self._connection.write(data)
        if not more:
            self._phase = _Phase.COMPLETE
            self._wake()
            if not self.keep_alive:
                self._connection.close()
            self._connection.answered()

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        """Return a piece of the body as it is sent. Raises RuntimeError if it is not as long as announced."""
        if self._is_head:
            return b""
        if self._chunked:
            if self._is_1_0:
                return body
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        self._left -= len(body)
        if self._left < 0 or (self._left and not more):
            msg = f"the answer's body is {'longer' if self._left < 0 else 'shorter'} than its Content-Length"
            raise RuntimeError(msg)
        return body

    # What the connection calls.

    def feed(self, body: bytes) -> int:
        """Take a piece of the request's body; return how many bytes wait for the application."""
        if self._phase is _Phase.COMPLETE:
            return 0
        if len(self._body) == _MOST_PIECES:  # else pieces of one byte each would take fifty times their size
            self._body = [b"".join(self._body)]
        self._body.append(body)
        self._size += len(body)
        self._wake()
        return self._size

    def end(self) -> None:
        """Note that the request's body is complete."""
        self._more = False
        self._wake()

    def drained(self) -> None:
        """Let the application send again."""
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def withdraw(self) -> bool:
        """Note that the request turned out to be none; return whether nothing of its answer has left yet."""
        is_unanswered = self._phase in (_Phase.WAITING, _Phase.STARTED)
        self.disconnect()
        return is_unanswered

    def disconnect(self) -> None:
        """Note that the connection is gone."""
        self._phase = _Phase.GONE
        self._wake()
        self.drained()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set()
