"""Requests that have arrived whole, answered past ASGI.

A small ``POST`` comes in one piece, and so does its answer. All that ASGI has for requests and answers
that take their time, a task, events, a scope for each, costs more than such a request itself.

Nor is the head of such a request parsed again and again: a publisher sends the same one with every message, and
the same bytes mean the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.core.ports import DIRECT, Direct, Head
from app.wire.handshake import LAST
from app.wire.http1 import CLOSE, Headers, header_line, status_line

MOST_HEADS = 500
LONGEST_HEAD = 4096
"""Heads that are known by their bytes, and how many of these one may have."""

_MOST_FORWARDED = 512
"""Bytes of X-Forwarded-For headers whose meaning is remembered: what a client sends there is for it to choose."""

_END = b"\r\n\r\n"

Address = tuple[str, int]
Forwarded = tuple[tuple[bytes, bytes], ...]
"""The X-Forwarded-For headers, which a proxy may be believed."""


class Connection(Protocol):
    """What an answer asks of its connection."""

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""

    def close(self) -> None:
        """End the connection when what was written has left."""

    def answered(self) -> None:
        """Go on to the next request."""

    @property
    def default_headers(self) -> Headers:
        """What stands in every answer."""


class Answer:
    """The answer to a request that was whole, until it is given."""

    __slots__ = ("_connection", "keep_alive")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self.keep_alive = True
        """Whether the connection is to outlive the answer."""

    def give(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send it in one piece, unless the connection is gone. A :data:`~app.core.ports.Reply`."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        default = connection.default_headers
        is_last = LAST in default
        connection.write(
            b"%b%b%bcontent-length: %d\r\n%b\r\n%b"
            % (
                status_line(status),
                _lines(tuple(default)),
                _lines(tuple(headers)),
                len(body),
                b"" if self.keep_alive or is_last else CLOSE,
                body,
            )
        )
        if is_last or not self.keep_alive:
            connection.close()
        connection.answered()

    def disconnect(self) -> None:
        """Note that the connection is gone."""
        self._connection = None

    def writable(self) -> None:
        """Nothing waits for room: the answer is one piece."""


class Request(NamedTuple):
    """What is known of a request when its head has been read."""

    head: Head
    forwarded: Forwarded

    @classmethod
    def of(cls, path: str, headers: Sequence[tuple[bytes, bytes]]) -> Request:
        """Take the parser's word for it."""
        return cls(Head(path, headers), tuple([header for header in headers if header[0] == b"x-forwarded-for"]))


class Desk:
    """What the connections of one server share, to offer whole requests to the application."""

    def __init__(self, direct: Direct, trusted_proxies: str | list[str] | None) -> None:
        self._direct = direct
        self._known: dict[bytes, tuple[Request, int]] = {}
        self._behind_proxy = None if trusted_proxies is None else _behind_proxy(trusted_proxies)

    @classmethod
    def of(cls, config: Config, app_state: Mapping[str, Any]) -> Desk | None:
        """Return a desk for one server; None where the application takes no such requests."""
        direct = app_state.get(DIRECT)
        proxies = config.forwarded_allow_ips if config.proxy_headers else None
        return cls(direct, proxies) if direct else None

    def known(self, data: bytes) -> tuple[Request, bytes] | None:
        """Take a request apart that begins with a known head and ends with its body."""
        begin = data.find(_END) + len(_END)
        known = self._known.get(data[:begin])
        if known is None or len(data) - begin != known[1]:
            return None
        return known[0], data[begin:]

    def learn(self, data: bytes, request: Request, body: bytes) -> None:
        """Remember that ``data``, parsed from its beginning, was this one request."""
        begin = data.find(_END) + len(_END)
        if len(data) - begin == len(body) and begin <= LONGEST_HEAD:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[data[:begin]] = request, len(body)

    def take(self, answer: Answer, request: Request, peer: Address | None, body: bytes) -> bool:
        """Offer a request to the application; ``peer`` is who has connected."""
        client = peer
        if request.forwarded and peer is not None and self._behind_proxy is not None:
            client = self._behind_proxy(peer, request.forwarded)
        return self._direct(request.head, client and client[0], body, answer.give)


@lru_cache(maxsize=64)  # the answers of one kind have the same
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join([header_line(name.lower(), value) for name, value in headers])


def _behind_proxy(trusted: str | list[str]) -> Callable[[Address, Forwarded], Address]:
    """Return what tells the client from who has connected and what is said in X-Forwarded-For.

    It asks uvicorn's middleware, which ASGI requests go through; that waits for nothing.
    """

    async def application(*_: object) -> None:
        pass

    middleware: Any = ProxyHeadersMiddleware(application, trusted)

    def ask(peer: Address, forwarded: Forwarded) -> Address:
        scope: dict[str, Any] = {"type": "http", "client": peer, "headers": forwarded}
        with contextlib.suppress(StopIteration):
            middleware(scope, None, None).send(None)
        address: Address = scope["client"]
        return address

    remembered = lru_cache(maxsize=1000)(ask)

    def client(peer: Address, forwarded: Forwarded) -> Address:
        is_short = sum([len(value) for _, value in forwarded]) <= _MOST_FORWARDED
        return remembered(peer, forwarded) if is_short else ask(peer, forwarded)

    return client
