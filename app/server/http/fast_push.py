"""Whole pushes, passed to the application without ASGI's tasks and events.

A small ``POST`` arrives in one piece, and its answer leaves in one piece. ASGI's task, events and scope, made for
slow requests and answers, cost more than such a request itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from uvicorn.config import Config

from app.core.ports import DIRECT, Direct
from app.server.http.forwarded import Address, TrustedProxies
from app.server.http.request_head_cache import RequestHeadCache
from app.wire.http1 import CLOSE, Headers, known_block, status_line
from app.wire.request_head import RequestHead

_MOST_ANSWER_HEADS = 64


class PushConnection(Protocol):
    """What the exchange of a push needs from its connection."""

    def answer_push(self, data: bytes, *, keep_alive: bool) -> None:
        """Send a whole answer, unless the connection is closing; go on to the next request, or close."""

    @property
    def default_headers(self) -> Headers:
        """The headers of every answer: another object whenever they are others."""


class AnswerHeads:
    """The heads of answers to pushes. Most answers of one second have the same, but for the length of the body."""

    def __init__(self) -> None:
        self._server: Headers = ()
        self._known: dict[tuple[int, Headers, bool], tuple[bytes, bytes, bool]] = {}
        """What stands before the length and behind it, and whether another request may follow; with those headers."""

    def find(
        self,
        server: Headers,
        status: int,
        headers: tuple[tuple[bytes, bytes], ...],
        keep_alive: bool,  # noqa: FBT001 — of a hot path
    ) -> tuple[bytes, bytes, bool]:
        """Return the head's bytes before and behind the length of the body, and whether another request may follow.

        ``server`` are the headers of every answer of the server, ``headers`` those of this one.
        """
        if server is not self._server or len(self._known) > _MOST_ANSWER_HEADS:
            self._server, self._known = server, {}
        key = status, headers, keep_alive
        known = self._known.get(key)
        if known is None:
            theirs, ours = known_block(tuple(server)), known_block(headers)
            keep_alive = keep_alive and not (theirs.closes or ours.closes)
            begin = b"%b%b%bcontent-length: " % (status_line(status), theirs.lines, ours.lines)
            known = self._known[key] = begin, b"\r\n%b\r\n" % (b"" if keep_alive else CLOSE), keep_alive
        return known


class PushExchange:
    """One push, until its answer is sent."""

    __slots__ = ("_connection", "_heads", "keep_alive")

    def __init__(self, connection: PushConnection, heads: AnswerHeads, *, keep_alive: bool) -> None:
        self._connection: PushConnection | None = connection
        self._heads = heads
        self.keep_alive = keep_alive
        """Whether the connection stays open after the answer."""

    def answer(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
        """Send the answer in one piece unless the connection is lost."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        begin, end, keep_alive = self._heads.find(connection.default_headers, status, headers, self.keep_alive)
        connection.answer_push(b"%b%d%b%b" % (begin, len(body), end, body), keep_alive=keep_alive)

    def disconnect(self) -> None:
        """Note that the connection is lost."""
        self._connection = None

    def writable(self) -> None:
        """Do nothing: the answer is one piece, which waits for no room."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """The parsed request head of a push."""

    push: Any
    """The head as the application has parsed it."""
    client: Address | None
    """The client according to a trusted proxy; None if the headers do not say."""
    keep_alive: bool


class FastPush:
    """Passes whole pushes to the application. The connections of one server share it."""

    def __init__(self, direct: Direct, proxies: TrustedProxies) -> None:
        self._direct = direct
        self._proxies = proxies
        self.cache: RequestHeadCache[Parsed] = RequestHeadCache()
        """The heads that were parsed before."""
        self._answer_heads = AnswerHeads()

    @classmethod
    def of(cls, config: Config, app_state: Mapping[str, Any], proxies: TrustedProxies) -> FastPush | None:
        """Return one for a server; None if pushes must go through ASGI, because something wraps the application."""
        direct: Direct | None = app_state.get(DIRECT)
        if direct is None or direct.app is not config.loaded_app or config.root_path:
            return None
        return cls(direct, proxies)

    def parse(self, head: RequestHead) -> Parsed | None:
        """Return the parsed head of a push; None if it is no push, or must go through ASGI."""
        if head.method != b"POST" or head.version != "1.1" or head.awaits_continue:
            return None
        push = self._direct.parse(head)
        return None if push is None else Parsed(push, self._proxies.read(head.headers).client, head.keep_alive)

    def begin(self, connection: PushConnection, parsed: Parsed, client: Address | None, body: bytes) -> PushExchange:
        """Pass a push from ``client`` to the application, which answers later."""
        exchange = PushExchange(connection, self._answer_heads, keep_alive=parsed.keep_alive)
        self._direct(parsed.push, client and client[0], body, exchange.answer)
        return exchange
