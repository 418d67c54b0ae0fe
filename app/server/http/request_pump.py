"""From the bytes of one connection to its requests: heads, bodies and ends, each when its turn has come.

A request is read when the one before it has been answered. Until then, what a client sends ahead waits as bytes.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Protocol

from app.server.http.deadlines import Deadlines
from app.server.lasting.backlog import Backlog
from app.server.sockets import abort
from app.wire.request_head import BadRequestError, RequestHead
from app.wire.request_reader import RequestReader

BODY_HIGH_WATER = 64 * 1024
"""Bytes of a body that wait for the application, above which nothing more is read."""

AHEAD_HIGH_WATER = 64 * 1024
"""Bytes sent behind a request that is not answered yet, above which nothing more is read."""

LARGE_HEAD = 8 * 1024
"""Bytes of a request head from which on it is read in a turn of the event loop that has room for it."""

_logger = logging.getLogger("uvicorn.error")


class BodyReceiver(Protocol):
    """What takes the body of a request."""

    awaits_continue: bool
    """Whether the peer waits to be told that its body is wanted."""

    def feed(self, body: bytes) -> int:
        """Take a piece; return how many bytes wait for the application."""

    def end(self) -> None:
        """Learn that the body is complete."""

    def withdraw(self) -> bool:
        """Learn that the request turned out to be none; return whether nothing of its answer has left yet."""


class Requests(Protocol):
    """What handles the requests of a connection."""

    def can_begin(self) -> bool:
        """Whether the next request may be read now."""

    def await_head(self) -> None:
        """Learn that a request head has begun, and is not whole."""

    def begin(self, head: RequestHead) -> None:
        """Handle a request. Set :attr:`RequestPump.receiver` to receive its body."""

    def refuse(self, error: BadRequestError) -> None:
        """Answer bytes that are no request, and close."""


class _Flow(Enum):
    READING = auto()
    PAUSED = auto()  # until there is room
    AWAITING_TURN = auto()  # paused until the backlog comes to it


_READING, _PAUSED, _AWAITING_TURN = _Flow  # as in deadlines: to look members up takes long


class RequestPump:
    """Reads the requests of one connection, and lets its transport read only while there is room."""

    __slots__ = ("_backlog", "_deadlines", "_flow", "_requests", "_transport", "chunk", "is_idle", "reader", "receiver")

    def __init__(
        self, requests: Requests, transport: asyncio.Transport, deadlines: Deadlines, backlog: Backlog
    ) -> None:
        self.reader = RequestReader()
        self.is_idle = True
        """Whether all that has come was read, and the next byte begins a request."""
        self.receiver: BodyReceiver | None = None
        """What takes the body that is being read."""
        self.chunk = b""
        """What the transport has just given, if it began between two requests; else nothing."""
        self._requests: Requests | None = requests  # None once stopped: else each would keep the other
        self._transport = transport
        self._deadlines = deadlines
        self._backlog = backlog
        self._flow = _READING

    @property
    def is_paused(self) -> bool:
        """Whether the transport has been told to read nothing."""
        return self._flow is not _READING

    def stop(self) -> None:
        """Read nothing more, and leave the transport reading, for the protocol that comes next."""
        self._requests = self.receiver = None
        before, self._flow = self._flow, _READING
        if before is not _READING and not self._transport.is_closing():
            self._transport.resume_reading()

    def take(self, data: bytes) -> None:
        """Read what came, as far as its turn has come."""
        reader = self.reader
        self.chunk = data if self.is_idle else b""
        self.is_idle = False
        reader.feed(data)
        if reader.is_at_head and reader.size > LARGE_HEAD and data.find(b"\r\n\r\n", 0, LARGE_HEAD) < 0:
            self._await_turn()
        else:
            self._read()
        self.chunk = b""

    def give(self, receiver: BodyReceiver, body: bytes) -> None:
        """Hand over a piece of a body, and pause where too much of it waits."""
        if body:
            self._deadlines.body_came(len(body))
            if receiver.feed(body) > BODY_HIGH_WATER:
                self._pause()

    def resume(self) -> None:
        """Let the transport read, if it was paused until there is room."""
        if self._flow is _PAUSED and not self._transport.is_closing():
            self._flow = _READING
            self._transport.resume_reading()

    def go_on(self) -> None:
        """Read on in what has come: the next request may begin."""
        if self._flow is _PAUSED:
            self.resume()
        if self._flow is _READING and not self.is_idle:
            self._read()

    def _read(self) -> None:
        """Read until more bytes are needed, or the turn is over."""
        try:
            while self._requests is not None and not self._transport.is_closing() and self._step(self._requests):
                pass
        except BadRequestError as error:
            if self._requests is not None:
                self._requests.refuse(error)
        self.is_idle = self.reader.is_between_requests

    def _step(self, requests: Requests) -> bool:
        """Read one head, or as much of a body as has come; return whether more can be read."""
        if self.receiver is not None:
            return self._read_body(self.receiver)
        if requests.can_begin():
            return self._read_head(requests)
        if self.reader.size > AHEAD_HIGH_WATER:
            self._pause()
        return False

    def _read_head(self, requests: Requests) -> bool:
        head = self.reader.head()
        if head is None:
            if self.reader.has_begun:
                requests.await_head()
            return False
        self._deadlines.head_came()
        requests.begin(head)
        return True

    def _read_body(self, receiver: BodyReceiver) -> bool:
        self.give(receiver, self.reader.body())
        if self.reader.is_at_head:
            self.receiver = None
            self._deadlines.body_ended()
            receiver.end()
            return True
        self._deadlines.await_body()
        if self.reader.has_more:
            self._await_turn()
        return False

    def _pause(self) -> None:
        if self._flow is _READING:
            self._flow = _PAUSED
            self._transport.pause_reading()

    def _await_turn(self) -> None:
        """Read on in a turn of the event loop that has room for it."""
        self._pause()
        self._flow = _AWAITING_TURN
        self._backlog.join(self._take_turn)

    def _take_turn(self) -> None:
        if self._requests is None:
            return
        self._flow = _PAUSED
        self.resume()
        try:
            self._read()
        except Exception:  # nothing else would end the connection
            _logger.exception("connection_failed")
            abort(self._transport)
