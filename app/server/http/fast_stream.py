"""Requests for responses that last, passed to the application without ASGI's task, events and scope."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from uvicorn.config import Config

from app.core.ports import DIRECT_STREAMS, DirectStreams, Heartbeat, Peer, Writer
from app.server.http.forwarded import Address
from app.wire.http1 import CHUNKED, Headers, known_block, response_head
from app.wire.request_head import RequestHead


class StreamConnection(Protocol):
    """What a response that lasts needs from its connection."""

    @property
    def default_headers(self) -> Headers:
        """The headers of every answer."""

    def client_of(self, head: RequestHead) -> tuple[Address | None, bool]:
        """Return the client of a request, and whether it speaks TLS."""

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Begin the response with ``head``, and leave the rest to ``peer``."""


class FastStreams:
    """Begins responses that last. The connections of one server share it."""

    def __init__(self, direct: DirectStreams) -> None:
        self._direct = direct

    @classmethod
    def of(cls, config: Config, app_state: Mapping[str, Any]) -> FastStreams | None:
        """Return one for a server; None if requests must go through ASGI, because something wraps the application."""
        direct: DirectStreams | None = app_state.get(DIRECT_STREAMS)
        if direct is None or direct.app is not config.loaded_app or config.root_path:
            return None
        return cls(direct)

    def begin(self, head: RequestHead, connection: StreamConnection) -> bool:
        """Begin the response to a request; return False if ASGI has to answer it."""
        if head.method != b"GET" or head.version != "1.1" or head.length != 0:
            return False
        client, _ = connection.client_of(head)
        admitted = self._direct.admit(head, client and client[0])
        if admitted is None:
            return False
        lines = known_block(tuple(connection.default_headers)).lines + known_block(admitted.headers).lines + CHUNKED
        admitted.begin(partial(connection.hand_over, response_head(200, lines, keep_alive=False)))
        return True
