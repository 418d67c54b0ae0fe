"""Pushes that have arrived whole, passed to the application without ASGI's tasks and events.

A small ``POST`` comes in one piece, and so does its answer. All that ASGI has for requests and answers
that take their time, a task, events, a scope for each, costs more than such a request itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from uvicorn.config import Config

from app.core.ports import DIRECT, Direct
from app.server.http.forwarded import Address, TrustedProxies
from app.server.http.request_head_cache import RequestHeadCache
from app.wire.http1 import Headers, known_block, response_head
from app.wire.request_head import RequestHead


class PushConnection(Protocol):
    """What the exchange of a push asks of its connection."""

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""

    def close(self) -> None:
        """End the connection when what was written has left."""

    def answered(self) -> None:
        """Go on to the next request."""

    @property
    def default_headers(self) -> Headers:
        """The headers of every answer."""


class PushExchange:
    """One push and its answer, until that is given."""

    __slots__ = ("_connection", "keep_alive")

    def __init__(self, connection: PushConnection, *, keep_alive: bool) -> None:
        self._connection: PushConnection | None = connection
        self.keep_alive = keep_alive
        """Whether the connection is to outlive the answer."""

    def answer(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
        """Send the answer in one piece, unless the connection is gone."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        server, ours = known_block(tuple(connection.default_headers)), known_block(headers)
        keep_alive = self.keep_alive and not (server.closes or ours.closes)
        lines = b"%b%bcontent-length: %d\r\n" % (server.lines, ours.lines, len(body))
        connection.write(response_head(status, lines, keep_alive=keep_alive) + body)
        if not keep_alive:
            connection.close()
        connection.answered()

    def disconnect(self) -> None:
        """Note that the connection is gone."""
        self._connection = None

    def writable(self) -> None:
        """Nothing waits for room: the answer is one piece."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the request head of a push says."""

    push: Any
    """As the application has parsed it."""
    client: Address | None
    """Who a trusted proxy says has sent it; None where nothing is said."""
    keep_alive: bool


class FastPush:
    """Passes whole pushes to the application. The connections of one server share it."""

    def __init__(self, direct: Direct, proxies: TrustedProxies) -> None:
        self._direct = direct
        self._proxies = proxies
        self.cache: RequestHeadCache[Parsed] = RequestHeadCache()
        """What was parsed before."""

    @classmethod
    def of(cls, config: Config, app_state: Mapping[str, Any], proxies: TrustedProxies) -> FastPush | None:
        """Return one for a server; None where pushes are to go by ASGI, as where something wraps the application."""
        direct: Direct | None = app_state.get(DIRECT)
        if direct is None or direct.app is not config.loaded_app or config.root_path:
            return None
        return cls(direct, proxies)

    def parse(self, head: RequestHead) -> Parsed | None:
        """Return what a request head says; None of what is no push, or is to go by ASGI."""
        if head.method != b"POST" or head.version != "1.1" or head.awaits_continue:
            return None
        push = self._direct.parse(head)
        return None if push is None else Parsed(push, self._proxies.read(head.headers).client, head.keep_alive)

    def begin(self, connection: PushConnection, parsed: Parsed, client: Address | None, body: bytes) -> PushExchange:
        """Let the application decide a push; ``client`` is who has sent it. The answer comes later."""
        exchange = PushExchange(connection, keep_alive=parsed.keep_alive)
        self._direct(parsed.push, client and client[0], body, exchange.answer)
        return exchange
