"""One log line for each request and each connection."""

from __future__ import annotations

import secrets
import time
from http import HTTPStatus
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger("app.access")

_QUIET = ("/health/",)
"""Paths whose successful requests are logged at debug level: a platform asks all the time."""


class AccessLog:
    """ASGI middleware around the whole application.

    The query string is never logged: it may carry a token.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and say at the end how it went."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        line = _Line(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**{f"{line.kind}_id": secrets.token_hex(8)})
        try:
            await self._app(scope, line.watch_receive(receive), line.watch_send(send))
        finally:
            line.write()


class _Line:
    """Gathers what the line says from the ASGI messages that pass."""

    def __init__(self, scope: Scope) -> None:
        self.kind = "connection" if scope["type"] == "websocket" else "request"
        self._begun = time.perf_counter()
        self._fields: dict[str, Any] = {"path": scope["path"]}
        if self.kind == "request":
            self._fields["method"] = scope["method"]
        if scope.get("client"):
            self._fields["client"] = scope["client"][0]
        self._sent = {"messages": 0, "bytes": 0}

    def watch_receive(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._fields.setdefault("close_code", message.get("code", 1005))
            return message

        return watched

    def watch_send(self, send: Send) -> Send:
        async def watched(message: Message) -> None:
            self._note(message)
            await send(message)

        return watched

    def _note(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._fields["status"] = message["status"]
            case "http.response.body":
                self._sent["bytes"] += len(message.get("body", b""))
            case "websocket.send":
                self._sent["messages"] += 1
                self._sent["bytes"] += len(message.get("bytes") or message.get("text") or "")
            case "websocket.close":
                self._fields["close_code"] = message.get("code", 1000)
                self._fields["close_reason"] = message.get("reason", "")

    def write(self) -> None:
        """Log the line."""
        milliseconds = round((time.perf_counter() - self._begun) * 1000, 1)
        quiet = self._fields["path"].startswith(_QUIET) and self._fields.get("status") == HTTPStatus.OK
        if self.kind == "request":
            self._sent.pop("messages")
        level = _log.debug if quiet else _log.info
        level(self.kind, ms=milliseconds, **self._sent, **self._fields)
