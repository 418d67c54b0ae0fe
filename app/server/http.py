"""uvicorn's HTTP protocol with the deadlines and the limit that it lacks.

uvicorn bounds how long a connection may be idle between requests, but waits for ever for the rest
of a request that has begun. Here a request header must be complete in time and of a sane size,
and a body must not stall.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.server.asgi import open_websocket
from app.server.handshake import Request


class _Phase(Enum):
    BETWEEN = auto()
    HEADER = auto()
    BODY = auto()


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until it ends or becomes a WebSocket.

    Invariant: unless the connection stands exactly between two requests, where uvicorn's keep-alive
    timer watches it, one timer runs: for the header, or for the body.
    """

    header_timeout: ClassVar[float] = 10.0
    """Seconds from connecting, or from a later request's first byte, to the header's end."""

    body_timeout: ClassVar[float] = 30.0
    """Seconds that a request's body may pause."""

    max_header_size: ClassVar[int] = 64 * 1024
    """Bytes that an unfinished header may have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 — uvicorn's business, passed on
        super().__init__(*args, **kwargs)
        self._phase = _Phase.BETWEEN
        self._timer: asyncio.TimerHandle | None = None
        self._at_boundary = False  # whether what data_received parsed ended with a request's last byte
        self._header_size = 0
        self._excused = False  # whether the last look found that the peer could not go on
        self._body_at = 0.0  # loop time of the last byte of the body; valid in Phase.BODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for the first header."""
        super().connection_made(transport)
        self._start(self.header_timeout, self._header_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, then watch whatever it has left unfinished."""
        self._at_boundary = False
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse("Invalid HTTP request received.")
            return
        if self.transport.is_closing() or self._at_boundary:
            return
        if self._phase is _Phase.BODY:
            self._start(self.body_timeout, self._body_late)
            return
        # A header, or the line breaks that may stand before one: those have ended the keep-alive
        # timer, so without a timer of ours they would keep the connection for ever.
        self._start(self.header_timeout, self._header_late)
        self._header_size += len(data)
        if self._header_size > self.max_header_size:
            self._refuse("Request header too large.")

    def on_message_begin(self) -> None:
        """Note that a header has begun; called by the parser."""
        self._phase, self._at_boundary = _Phase.HEADER, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the header is complete; called by the parser."""
        self._stop()
        self._phase, self._header_size, self._body_at = _Phase.BODY, 0, self.loop.time()
        self._excused = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note when the body last moved; called by the parser."""
        self._body_at = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete, or was an upgrade; called by the parser."""
        self._stop()
        self._phase, self._at_boundary = _Phase.BETWEEN, True
        super().on_message_complete()

    def _refuse(self, why: str) -> None:
        self.logger.warning(why)
        self.send_400_response(why)

    def _should_upgrade(self) -> bool:
        """Tell whether the upgrade that the parser found asked for is one to WebSocket."""
        return (b"upgrade", b"websocket") in self.headers or any(
            name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in self.headers
        )

    def _upgrade(self, rest: bytes) -> None:
        """Hand the connection over with its parsed request, and keep nothing of it; ``rest`` came after the header."""
        if not self._should_upgrade():
            self._unsupported_upgrade_warning()
        elif self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            self.transport.close()  # it asks before it has had the answer to an earlier request
        else:
            parser, self.parser = self.parser, None  # type: ignore[assignment]  # as uvicorn does in the end
            self.connections.discard(self)
            request = Request(
                parser.get_method(),
                parser.get_http_version(),
                self.url,
                self.headers,
                self.scheme == "https",
                self.client,
                self.server,
                rest,
            )
            open_websocket(self.transport, request, self.config, self.server_state, self.app_state)

    def _start(self, seconds: float, late: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _header_late(self) -> None:
        self._timer = None
        # While an earlier request is still being answered, the rest of the next one may wait:
        # uvicorn starts its keep-alive timer when the answer is complete.
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            self.transport.close()

    def _body_late(self) -> None:
        self._timer = None
        # While it is the application that keeps the peer waiting, the peer is excused, and for one
        # more period: it may have been told to go on only just now.
        excused = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if excused or self._excused:
            self._body_at = self.loop.time()
        self._excused = excused
        left = self._body_at + self.body_timeout - self.loop.time()
        if left > 0:
            self._start(left, self._body_late)
        else:
            self.transport.close()
