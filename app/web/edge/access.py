"""One log line for each request and each connection."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from functools import cache, lru_cache, partial
from http import HTTPStatus
from random import getrandbits
from typing import Self

import structlog
from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.limits.places import Places
from app.web.edge.request import address

LINE = "abide.line"
"""The key of a scope's :class:`Line`."""


_QUIET = frozenset({"/health/live", "/health/ready", "/metrics", "/console/overview"})
_QUIET_BELOW = ("/console/", "/docs/")
"""Paths whose successful requests are logged at debug level: platforms and the console send them all the time, or a
page has dozens of them."""

_FINE = (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED)
_REFUSED = 400
"""The least status of a refusal."""

_PROBLEM = re.compile(rb'"type":"urn:abide:problem:(\w+)"')


_LONGEST_PATH = 1024
"""How many characters of a path are logged; a channel's name has at most 255."""

_MOST_KNOWN = 500
"""How many combinations of request, client and outcome are remembered."""


def new_id() -> str:
    """Return a random id for the log."""
    return "%016x" % getrandbits(64)  # noqa: UP031 — in half the time of an f-string


def write_push(  # noqa: PLR0913, PLR0917 — a push and its answer
    line_id: str, begun: float, path: str, client: str | None, status: int, body: bytes
) -> None:
    """Log a push that did not come by ASGI; ``begun`` is by :func:`time.perf_counter`, ``body`` the answer's."""
    code = None if status < _REFUSED else _code(body)
    known = _known("request", "bytes", "POST", path[:_LONGEST_PATH], status, code, None, None, client)
    _writer()(known, line_id, time.perf_counter() - begun, len(body))


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
        structlog.contextvars.bind_contextvars(**{line.kind + "_id": line.id})
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
        self.id = new_id()
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
        if self.status is not None and self.status >= _REFUSED:
            self.code = _code(body) or self.code

    def write(self) -> None:
        """Log the line, and give its place back: the connection or the request has ended."""
        if self._places is not None:
            self._places.give_back(self.client)
        lasted = self.kind == "connection" or self.kept
        counted, path = "messages" if lasted else "bytes", self.path[:_LONGEST_PATH]
        close_code, reason = self.close_code, self.close_reason
        known = _known(self.kind, counted, self.method, path, self.status, self.code, close_code, reason, self.client)
        _writer()(known, self.id, time.perf_counter() - self._begun, self.messages if lasted else self.bytes)


class Known:
    """What a line has in common with many others. See :class:`app.telemetry.json_lines.Known`."""

    __slots__ = ("counted", "fields", "kind", "level", "texts")

    def __init__(self, kind: str, level: int, counted: str, fields: dict[str, object]) -> None:
        self.kind = kind
        self.level = level
        self.counted = counted
        self.fields = fields
        self.texts: tuple[str, ...] | None = None

    def event(self, line_id: str, seconds: float, count: int) -> dict[str, object]:
        """Return all fields of one line."""
        return {f"{self.kind}_id": line_id, **self.fields, "ms": round(seconds * 1000, 1), self.counted: count}


@lru_cache(maxsize=_MOST_KNOWN)
def _known(  # noqa: PLR0913, PLR0917 — all that is cheap to look up together
    kind: str,
    counted: str,
    method: str | None,
    path: str,
    status: int | None,
    code: str | None,
    close_code: int | None,
    close_reason: str | None,
    client: str | None,
) -> Known:
    is_quiet = (path in _QUIET or path.startswith(_QUIET_BELOW)) and status in _FINE
    fields: dict[str, object] = {
        "method": method,
        "path": path,
        "status": status,
        "code": code,
        "close_code": close_code,
        "close_reason": close_reason or None,
        "client": client,
    }
    present = {name: value for name, value in fields.items() if value is not None}
    return Known(kind, logging.DEBUG if is_quiet else logging.INFO, counted, present)


def _code(body: bytes) -> str | None:
    """Return the code in the body of a refusal."""
    problem = _PROBLEM.search(body)
    return None if problem is None else problem[1].decode()


@cache
def _writer() -> Callable[[Known, str, float, int], None]:
    """Return what writes lines: the method for them of the logger, bound once; structlog's own loggers have none."""
    log = structlog.get_logger("app.access").bind()
    access: Callable[[Known, str, float, int], None] | None = getattr(log, "access", None)
    return partial(_write_event, log) if access is None else access


def _write_event(
    log: structlog.typing.FilteringBoundLogger, known: Known, line_id: str, seconds: float, count: int
) -> None:
    write = log.debug if known.level == logging.DEBUG else log.info
    write(known.kind, **known.event(line_id, seconds, count))
