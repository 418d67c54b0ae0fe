"""Requests for responses that last, passed to the application without ASGI's task, events and scope."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from uvicorn.config import Config

from app.core.ports import DIRECT_STREAMS, DirectStreams, Heartbeat, Peer, Writer
from app.server.http.forwarded import Address, TrustedProxies
from app.wire.http1 import CHUNKED, Headers, known_block, response_head
from app.wire.known_streams import DifferingStream, KnownStreams
from app.wire.request_head import RequestHead


class StreamConnection(Protocol):
    """What a response that lasts needs from its connection."""

    @property
    def default_headers(self) -> Headers:
        """The headers of every answer."""

    def admits_head(self) -> bool:
        """Note that a request head is whole; return whether there is room for the connection, or turn it away."""

    def whom(self, said: Address | None) -> Address | None:
        """Return the client of a request whose headers name ``said`` as its client."""

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Begin the response with ``head``, and leave the rest to ``peer``."""


class Known(NamedTuple):
    """What requests of one kind mean."""

    parsed: Any
    """The head as the application has parsed it."""
    client: Address | None
    """The client according to a trusted proxy; None if the headers do not say."""


class FastStreams:
    """Begins responses that last. The connections of one server share it."""

    def __init__(self, direct: DirectStreams, proxies: TrustedProxies) -> None:
        self._direct = direct
        self._proxies = proxies
        self._known: KnownStreams[Known] = KnownStreams()

    @classmethod
    def of(cls, config: Config, app_state: Mapping[str, Any], proxies: TrustedProxies) -> FastStreams | None:
        """Return one for a server; None if requests must go through ASGI, because something wraps the application."""
        direct: DirectStreams | None = app_state.get(DIRECT_STREAMS)
        if direct is None or direct.app is not config.loaded_app or config.root_path:
            return None
        return cls(direct, proxies)

    def begin_known(self, data: bytes, connection: StreamConnection) -> bool:
        """Answer ``data`` if it is one whole request of a known kind; return False if it has to be parsed."""
        found = self._known.find(data)
        return found is not None and (not connection.admits_head() or self._begin(*found, connection))

    def begin(self, head: RequestHead, data: bytes, connection: StreamConnection) -> bool:
        """Begin the response to a request, which came with ``data``; return False if ASGI has to answer it."""
        if head.method != b"GET" or head.version != "1.1" or head.length != 0:
            return False
        parsed = self._direct.parse(head)
        if parsed is None:
            return False
        known = Known(parsed, self._proxies.read(head.headers).client)
        if not self._begin(known, DifferingStream(head.target.query, None, None), connection):
            return False
        self._known.remember(data, head.headers, known)
        return True

    def _begin(self, known: Known, differing: DifferingStream, connection: StreamConnection) -> bool:
        client = connection.whom(known.client)
        admitted = self._direct.admit(known.parsed, *differing, client and client[0])
        if admitted is None:
            return False
        lines = known_block(tuple(connection.default_headers)).lines + known_block(admitted.headers).lines + CHUNKED
        admitted.begin(partial(connection.hand_over, response_head(200, lines, keep_alive=False)))
        return True
