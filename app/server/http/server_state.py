"""What all connections of one server share: uvicorn's state, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self, cast

import uvicorn.server
from uvicorn.config import Config

from app.core.ports import LIMITS, Limits
from app.server.http.arrivals import Arrivals
from app.server.http.deadlines import Times
from app.server.http.fast_push import FastPush
from app.server.http.fast_stream import FastStreams
from app.server.http.forwarded import TrustedProxies
from app.server.lasting.limits import Timeouts
from app.server.lasting.link_context import LinkContext
from app.server.lasting.upgrades import Upgrades
from app.server.lasting.websocket import WebSocketProtocol


class ServerState(uvicorn.server.ServerState):
    """uvicorn's state of a server, with what its connections share beside it."""

    links: LinkContext
    """Valid once begun, as all else here."""

    websocket_class: type[WebSocketProtocol]
    """The configuration's, or ours where that is another server's: only ours takes connections over."""

    arrivals: Arrivals
    """Bounds connections that are not links."""

    proxies: TrustedProxies
    """Whose word on the client of a request is taken."""

    @classmethod
    def of(cls, state: uvicorn.server.ServerState, config: Config, app_state: Mapping[str, Any]) -> Self:
        """Return a server's state as one of this class.

        Our server has made one. uvicorn's own has no setting for the class of its state: its first connection sets
        the class.
        """
        if not isinstance(state, cls):
            state.__class__ = cls
            state = cast("Self", state)
            state.begin(config, app_state)
        return state

    def begin(self, config: Config, app_state: Mapping[str, Any]) -> None:
        """Make what connections share, in the server's event loop; ``app_state`` is the lifespan's."""
        given = config.ws_protocol_class
        kind = given if isinstance(given, type) and issubclass(given, WebSocketProtocol) else WebSocketProtocol
        timeouts = Timeouts(
            config.ws_ping_interval or None,
            config.ws_ping_timeout or None,
            handshake=kind.handshake_timeout,
            closing=kind.closing_timeout,
        )
        self._config = config
        self.websocket_class = kind
        self.proxies = TrustedProxies.of(config)
        self.links = LinkContext(self.connections, app_state, timeouts, config.ws_max_size)
        self.arrivals = Arrivals(self.links)
        self._limited: tuple[Times, Limits, Times] | None = None  # the last result of times()

    def times(self, given: Times) -> Times:
        """Return the times of a connection that begins now: those given, but where the application limits them."""
        if LIMITS not in self.links.app_state:
            return given
        limits = self.links.configured
        if self._limited is None or self._limited[0] is not given or self._limited[1] is not limits:
            self._limited = given, limits, given.under(limits)
        return self._limited[2]

    @cached_property
    def fast_push(self) -> FastPush | None:
        """Passes whole pushes to the application; None if it takes none. Made with the first connection."""
        return FastPush.of(self._config, self.links.app_state, self.proxies)

    @cached_property
    def streams(self) -> FastStreams | None:
        """Begins responses that last; None if the application takes none so. Made with the first connection."""
        return FastStreams.of(self._config, self.links.app_state, self.proxies)

    @cached_property
    def upgrades(self) -> Upgrades:
        """Answers handshakes. Made with the first connection."""
        return Upgrades(self._config, self, self.links.app_state, self.links, self.websocket_class)
