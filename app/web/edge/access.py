"""One log line for each request and each connection."""

from __future__ import annotations

import random
import re
import time
from functools import cache
from http import HTTPStatus
from typing import Any, Self

import structlog
from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.limits.places import Places
from app.web.edge.request import address

LINE = "abide.line"
"""The key of a scope's :class:`Line`."""


@cache
def _log() -> structlog.typing.FilteringBoundLogger:
    """Return the logger, bound once: structlog's own proxy binds it anew for each line."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger("app.access").bind()
    return log


_QUIET = frozenset({"/health/live", "/health/ready", "/metrics", "/console/overview"})
_QUIET_BELOW = ("/console/", "/docs/")
"""Paths whose successful requests are logged at debug level: platforms and the console send them all the time, or a
page has dozens of them."""

_FINE = (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED)
_PROBLEM = re.compile(rb'"type":"urn:abide:problem:(\w+)"')


_LONGEST_PATH = 1024
"""How many characters of a path are logged; a channel's name has at most 255."""


class AccessLog:
    """ASGI middleware around the whole application.

    The query string is never logged: it may carry a token.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and log the outcome. An application mounted in another logs no second line."""
        if scope["type"] == "lifespan" or LINE in scope:
            await self._app(scope, receive, send)
            return
        line = Line.of(scope)
        scope[LINE] = line
        if line.kind == "connection":  # it may have begun in the context of a request
            structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**{f"{line.kind}_id": line.id})
        try:
            await self._app(scope, line.watch_receive(receive), line.watch_send(send))
        finally:
            if not line.kept:
                line.write()


class Line:
    """One log line, filled in from the ASGI messages that pass.

    Code that keeps a connection or a response open after the application has returned sets :attr:`kept`,
    fills in how it ended, and calls :meth:`write`. A line is small, because it lives as long as its connection.
    """

    __slots__ = (
        "_begun", "_places", "bytes", "client", "close_code", "close_reason", "code", "id", "kept", "kind", "messages",
        "method", "path", "status",
    )  # fmt: skip

    def __init__(self, kind: str, path: str, method: str | None, client: str | None) -> None:
        self.kind = kind
        """``request`` or ``connection``."""
        self.id = f"{random.getrandbits(64):016x}"
        self.path = path
        self.method = method
        self.client = client
        self.status: int | None = None
        self.code: str | None = None
        """The code of a refusal."""
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.messages = 0
        """Messages sent to the subscriber; logged for connections, and for responses that stay open."""
        self.bytes = 0
        """Bytes of the response's body; logged for all other requests."""
        self.kept = False
        self._places: Places | None = None  # where it has one
        self._begun = time.perf_counter()

    @classmethod
    def of(cls, scope: Scope) -> Self:
        """Return the line of an ASGI request or WebSocket; its path is the one below the root path."""
        kind = "connection" if scope["type"] == "websocket" else "request"
        return cls(kind, get_route_path(scope), scope.get("method"), address(scope))

    def take_place(self, places: Places) -> None:
        """Take a place for the client until the line is written; raises as :meth:`Places.take` does."""
        places.take(self.client)
        self._places = places

    def watch_receive(self, receive: Receive) -> Receive:
        """Return a ``receive`` that notes how the client disconnects."""
        if self.kind == "request":
            return receive

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect" and self.close_code is None:
                self.close_code = message.get("code", 1005)
            return message

        return watched

    def watch_send(self, send: Send) -> Send:
        """Return a ``send`` that notes the outcome."""

        async def watched(message: Message) -> None:
            self._note(message)
            await send(message)

        return watched

    def _note(self, message: Message) -> None:
        match message["type"]:
            case "http.response.body" | "websocket.http.response.body":
                self.take_body(message.get("body", b""))
            case "websocket.send":
                self.messages += 1
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
            case "websocket.close":
                self.close_code = message.get("code", 1000)
                self.close_reason = message.get("reason", "")

    def take_body(self, body: bytes) -> None:
        """Count a part of the body; that of a refusal has its code."""
        self.bytes += len(body)
        if self.status is not None and self.status >= HTTPStatus.BAD_REQUEST and (problem := _PROBLEM.search(body)):
            self.code = problem[1].decode()

    def write(self) -> None:
        """Log the line, and give its place back: the connection or the request has ended."""
        if self._places is not None:
            self._places.give_back(self.client)
        fields: dict[str, Any] = {f"{self.kind}_id": self.id}
        if self.method is not None:
            fields["method"] = self.method
        fields["path"] = self.path[:_LONGEST_PATH]
        if self.status is not None:
            fields["status"] = self.status
        if self.code is not None:
            fields["code"] = self.code
        if self.close_code is not None:
            fields["close_code"] = self.close_code
        if self.close_reason:
            fields["close_reason"] = self.close_reason
        if self.client is not None:
            fields["client"] = self.client
        fields["ms"] = round((time.perf_counter() - self._begun) * 1000, 1)
        if self.kind == "connection" or self.kept:
            fields["messages"] = self.messages
        else:
            fields["bytes"] = self.bytes
        is_quiet = (self.path in _QUIET or self.path.startswith(_QUIET_BELOW)) and self.status in _FINE
        log = _log()
        (log.debug if is_quiet else log.info)(self.kind, **fields)
