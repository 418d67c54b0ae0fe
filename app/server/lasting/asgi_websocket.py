"""A WebSocket that an ASGI application serves, until it hands it over or ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar

from uvicorn.server import ServerState

from app.core.ports import FANOUT, Heartbeat, Peer, Writer
from app.server import asgi
from app.server.asgi import Application, Event
from app.server.lasting.websocket import WebSocketProtocol
from app.wire import frames, handshake
from app.wire.close_codes import CloseCode

_logger = logging.getLogger("uvicorn.error")


class DisconnectedError(OSError):
    """Raised by ``send`` when the connection is gone, as the ASGI specification asks."""


class _WebSocketPhase(Enum):
    CONNECTING = auto()
    REFUSING = auto()  # the application has begun a response instead
    OPEN = auto()
    DETACHED = auto()  # handed over
    ENDED = auto()


class AsgiWebSocket:
    """Runs the application for one WebSocket: the handshake, then its messages, or the handover.

    Nothing refers to it any more when the application has returned.
    """

    __slots__ = (
        "_body",
        "_code",
        "_connected",
        "_connection",
        "_key",
        "_message",
        "_most",
        "_news",
        "_phase",
        "_room",
        "_server_state",
        "_start",
        "_task",
    )

    def __init__(self, connection: WebSocketProtocol, key: bytes, server_state: ServerState, most: int) -> None:
        self._connection = connection
        self._most = most
        self._key = key
        self._server_state = server_state
        self._phase = _WebSocketPhase.CONNECTING
        self._connected = False  # whether the application has received websocket.connect
        self._message: frames.Frame | None = None  # not received by the application yet; reading is paused
        self._code: int | None = None  # close code, once the connection is closed
        self._news: asyncio.Event | None = None  # set when there is a message or a code; made by the call that waits
        self._room: asyncio.Event | None = None  # set when the connection is no longer full
        self._start: Event = {}  # of the refusal; valid while REFUSING
        self._body = b""  # of the refusal, so far
        self._task: asyncio.Task[None] | None = None

    def start(self, app: Application, scope: Event, rest: bytes) -> None:
        """Take the connection over, and run the application as one of the server's tasks."""
        scope["extensions"] = {"websocket.http.response": {}, FANOUT: self.hand_over}
        self._connection.start(self, rest)
        self._task = asgi.start(self._server_state.tasks, self._run(app, scope))

    async def _run(self, app: Application, scope: Event) -> None:
        try:
            await app(scope, self.receive, self.send)
        except DisconnectedError:
            pass
        except Exception:
            _logger.exception("Exception in ASGI application")
            self._finish(CloseCode.INTERNAL_ERROR)
        except BaseException:
            self._finish(CloseCode.INTERNAL_ERROR)
            raise
        else:
            if self._phase in (_WebSocketPhase.CONNECTING, _WebSocketPhase.REFUSING):
                _logger.error("ASGI application returned without answering the handshake")
            self._finish(CloseCode.NORMAL)

    def _finish(self, code: int) -> None:
        """End what the application has left open; what it has handed over, only after an error."""
        if self._phase in (_WebSocketPhase.CONNECTING, _WebSocketPhase.REFUSING):
            self._refuse(500)
        elif self._phase is _WebSocketPhase.OPEN or code != CloseCode.NORMAL:
            self._connection.close(code, "")
        self._phase = _WebSocketPhase.ENDED

    # The extension.

    def hand_over(self, peer: Peer, heartbeat: Heartbeat | None = None) -> Writer:
        """Hand the connection over to ``peer``; this is the :class:`~app.core.ports.Handover`.

        Raises RuntimeError unless called once, after ``websocket.accept``.
        """
        if self._phase is not _WebSocketPhase.OPEN:
            msg = "a connection can be handed over once, after websocket.accept"
            raise RuntimeError(msg)
        self._phase = _WebSocketPhase.DETACHED
        if not self._connection.hand_over(peer, self._message, heartbeat) and self._code is not None:
            asyncio.get_running_loop().call_soon(peer.closed, self._code)
        return self._connection

    # What the application calls.

    async def receive(self) -> Event:
        """Return the next event; after the end, always ``websocket.disconnect``."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        self._read_on()
        while self._message is None:
            if self._code is not None:
                return {"type": "websocket.disconnect", "code": self._code, "reason": ""}
            if self._news is None:
                self._news = asyncio.Event()
            await self._news.wait()
        opcode, data = self._message
        self._message = self._news = None
        # Later: a close behind the message would otherwise be answered before the message is.
        asyncio.get_running_loop().call_soon(self._read_on)
        if opcode == frames.TEXT:
            return {"type": "websocket.receive", "text": data.decode()}
        return {"type": "websocket.receive", "bytes": data}

    async def send(self, event: Event) -> None:
        """Take an event of the application; return when the connection has room for it.

        Raises :class:`DisconnectedError` (an OSError) when the connection is gone, and RuntimeError
        for an event out of order.
        """
        while self._connection.is_full() and self._code is None:
            if self._room is None:
                self._room = asyncio.Event()
            await self._room.wait()
        if self._code is not None and self._phase is not _WebSocketPhase.ENDED:
            raise DisconnectedError
        handler = self._handlers[self._phase].get(event["type"])
        if handler is None:
            msg = f"ASGI event {event['type']!r} is out of order: the connection is {self._phase.name.lower()}"
            raise RuntimeError(msg)
        handler(self, event)

    def _accept(self, event: Event) -> None:
        headers = [*self._server_state.default_headers, *event.get("headers", ())]
        lines = handshake.accepting_lines(headers, event.get("subprotocol"))
        self._connection.accept(handshake.accepting(self._key, lines))
        self._phase = _WebSocketPhase.OPEN

    def _send(self, event: Event) -> None:
        data, text = event.get("bytes"), event.get("text")
        if data is not None:
            self._connection.write(frames.frame(frames.BINARY, bytes(data)))
        elif text is not None:
            self._connection.write(frames.text_frame(text.encode()))
        else:
            msg = "websocket.send needs bytes or text"
            raise RuntimeError(msg)

    def _close(self, event: Event) -> None:
        self._connection.close(event.get("code", CloseCode.NORMAL), event.get("reason") or "")
        self._phase = _WebSocketPhase.ENDED

    def _refuse_as_forbidden(self, event: Event) -> None:  # noqa: ARG002 — a handler like the others
        self._refuse(403)

    def _refuse(self, status: int) -> None:
        self._phase = _WebSocketPhase.ENDED
        self._connection.refuse(handshake.text_response(status, self._server_state.default_headers))

    def _begin_refusal(self, event: Event) -> None:
        if not 200 <= event["status"] < 600:  # noqa: PLR2004 — what HTTP has
            msg = f"{event['status']} is not the status of a refusal"
            raise RuntimeError(msg)
        self._start = event
        self._phase = _WebSocketPhase.REFUSING

    def _continue_refusal(self, event: Event) -> None:
        self._body += event.get("body", b"")
        if not event.get("more_body", False):
            headers = [*self._server_state.default_headers, *self._start.get("headers", ())]
            self._connection.refuse(handshake.response(self._start["status"], headers, self._body))
            self._phase = _WebSocketPhase.ENDED

    _handlers: ClassVar[dict[_WebSocketPhase, dict[str, Callable[[AsgiWebSocket, Event], None]]]] = {
        _WebSocketPhase.CONNECTING: {
            "websocket.accept": _accept,
            "websocket.close": _refuse_as_forbidden,
            "websocket.http.response.start": _begin_refusal,
        },
        _WebSocketPhase.REFUSING: {"websocket.http.response.body": _continue_refusal},
        _WebSocketPhase.OPEN: {"websocket.send": _send, "websocket.close": _close},
        _WebSocketPhase.DETACHED: {},
        _WebSocketPhase.ENDED: {},
    }
    """The events that the application may send in each phase."""

    # What the connection calls.

    def received(self, data: bytes, *, text: bool) -> None:
        """Keep one message, and pause reading until the application has received it."""
        self._message = (frames.TEXT if text else frames.BINARY), data
        self._connection.pause()
        self._wake(self._news)

    def max_size(self) -> int:
        """Return the server's bound."""
        return self._most

    def _read_on(self) -> None:
        if self._message is None and self._phase is _WebSocketPhase.OPEN:
            self._connection.resume()

    def full(self) -> None:
        """Do nothing: :meth:`send` waits by itself."""

    def writable(self) -> None:
        """Let the application send again."""
        room, self._room = self._room, None
        self._wake(room)

    def closed(self, code: int) -> None:
        """Tell the application; cancel it if it has not answered the handshake."""
        self._code = code
        if self._phase in (_WebSocketPhase.CONNECTING, _WebSocketPhase.REFUSING) and self._task is not None:
            self._phase = _WebSocketPhase.ENDED
            self._task.cancel()
        self._wake(self._news)
        self._wake(self._room)

    def _wake(self, event: asyncio.Event | None) -> None:
        if event is not None:
            event.set()
