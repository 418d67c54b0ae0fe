"""Handshakes of WebSockets: each goes to the application by the shortest way that it can take.

Most handshakes can be decided by their request head at once. They need no task, no scope and no events of ASGI, and
those that the same kind of client has sent before need no parsing either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from uvicorn.config import Config
from uvicorn.server import ServerState

from app.core.ports import DIRECT_SOCKETS, DirectSockets, Heartbeat, Peer, Reply, Writer
from app.server.lasting.asgi_websocket import AsgiWebSocket
from app.server.lasting.link_context import LinkContext
from app.server.lasting.websocket import WebSocketProtocol
from app.wire import handshake
from app.wire.handshake import RefusalError, UpgradeRequest
from app.wire.http1 import Headers
from app.wire.known_handshakes import Differing, KnownHandshakes

Address = tuple[str, int]


class Upgrading(Protocol):
    """The connection that a handshake has come on."""

    def admits_head(self) -> bool:
        """Note that a request head is whole; return whether there is room for the connection, or turn it away."""

    def whom(self, said: Address | None) -> Address | None:
        """Return the client of a request whose headers name ``said`` as its client."""

    def leave(self) -> asyncio.Transport:
        """Watch and read nothing more, and return the transport: another protocol has it."""

    def turn_away(self, error: RefusalError) -> None:
        """Answer with a refusal, and close."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def close(self) -> None:
        """Close after sending the written bytes."""


class Known(NamedTuple):
    """What handshakes of one kind mean."""

    parsed: Any
    """The head as the application has parsed it."""
    client: Address | None
    """The client according to a trusted proxy; None if the headers do not say."""


class Upgrades:
    """Answers the handshakes of one server's connections."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        app_state: Mapping[str, Any],
        links: LinkContext,
        websocket_class: type[WebSocketProtocol],
    ) -> None:
        self._config = config
        self._state = state
        self._links = links
        self._websocket_class = websocket_class
        direct: DirectSockets | None = app_state.get(DIRECT_SOCKETS)
        is_ours = direct is not None and direct.app is config.loaded_app and not config.root_path
        self._direct = direct if is_ours else None  # None where something wraps the application
        self._known: KnownHandshakes[Known] = KnownHandshakes()
        self._lines: dict[str | None, bytes] = {}  # of an answer that accepts, by subprotocol
        self._lines_of: Headers = ()  # the default headers that are among them

    def open_known(self, data: bytes, connection: Upgrading) -> bool:
        """Answer ``data`` if it is one whole handshake of a known kind; return False if it has to be parsed."""
        if self._direct is None or handshake.LAST in self._state.default_headers:
            return False
        found = self._known.find(data)
        if found is None or not handshake.is_key(found[1].key):
            return False
        known, differing = found
        return not connection.admits_head() or self._open(
            known.parsed, differing, connection.whom(known.client), connection
        )

    def answer(self, request: UpgradeRequest, said: Address | None, data: bytes, connection: Upgrading) -> None:
        """Answer any handshake. ``said`` is the client that its headers name; ``data`` came with its head."""
        try:
            handshake.check_server(self._state.default_headers)
            key, subprotocols = handshake.check(request)
        except RefusalError as error:
            connection.turn_away(error)
            return
        if self._direct is not None and not request.rest:
            head = request.head
            parsed = self._direct.parse(head, subprotocols)
            if parsed is not None:
                self._known.remember(data, head.headers, Known(parsed, said))
                if self._open(parsed, Differing(key, head.target.query, None), request.client, connection):
                    return
        scope = handshake.scope(request, self._config.asgi_version, self._config.root_path, subprotocols)
        scope["state"] = dict(self._links.app_state)
        websocket = self._websocket_class(connection.leave(), self._links)
        peer = AsgiWebSocket(websocket, key, self._state, self._links.max_size)
        peer.start(self._config.loaded_app, scope, request.rest)

    def _open(self, parsed: object, differing: Differing, client: Address | None, connection: Upgrading) -> bool:
        assert self._direct is not None  # noqa: S101 — its callers have asked
        key, query, bearer = differing
        answer = self._direct.admit(parsed, query, bearer, client and client[0])
        if answer is None:
            return False
        if isinstance(answer, Reply):
            headers = [*self._state.default_headers, *answer.headers]
            connection.write(handshake.response(answer.status, headers, answer.body))
            connection.close()
            return True
        response = handshake.accepting(key, self._lines_for(answer.subprotocol))
        answer.begin(partial(_begin, self._websocket_class(connection.leave(), self._links), response))
        return True

    def _lines_for(self, subprotocol: str | None) -> bytes:
        """Return the header lines of an answer that accepts."""
        headers = self._state.default_headers
        if headers is not self._lines_of:  # the server makes new ones each second
            self._lines_of, self._lines = headers, {}
        lines = self._lines.get(subprotocol)
        if lines is None:
            lines = self._lines[subprotocol] = handshake.accepting_lines(headers, subprotocol)
        return lines


def _begin(link: WebSocketProtocol, response: bytes, peer: Peer, heartbeat: Heartbeat | None = None) -> Writer:
    """Open a WebSocket for its peer; the :class:`~app.core.ports.Handover` of a handshake past ASGI."""
    link.start(peer, b"")
    link.accept(response)
    link.hand_over(peer, None, heartbeat)
    return link
