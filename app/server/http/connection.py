"""HTTP/1.1 connections: requests in, each to its exchange, in order, and with deadlines.

uvicorn's own protocol waits without limit for the rest of a request that has begun, and spends more on a small request
than the application does. Here a request must arrive, and an answer be read, within a bound of time
(:mod:`app.server.http.deadlines`); what a request needs is made once, and only when it is needed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

import uvicorn.server
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr

from app.core.ports import FANOUT, METER, UNMETERED, Heartbeat, Meter, Peer, Writer
from app.server import asgi
from app.server.http.arrivals import Arrival
from app.server.http.deadlines import Awaited, Deadlines, Times
from app.server.http.exchange import Exchange, scope_of
from app.server.http.fast_push import FastPush, Parsed, PushExchange
from app.server.http.forwarded import Address
from app.server.http.request_pump import RequestPump
from app.server.http.server_state import ServerState
from app.server.lasting.stream import StreamProtocol
from app.server.sockets import abort, limit_send_buffer, peer_address
from app.wire.handshake import RefusalError, UpgradeRequest, text_response
from app.wire.http1 import Headers
from app.wire.request_head import BadRequestError, RequestHead

_logger = logging.getLogger("uvicorn.error")


class HttpProtocol(asyncio.Protocol):
    """One HTTP connection, until it ends, or becomes a WebSocket or a response that lasts.

    Invariant: the connection is closed at its deadline, unless all that it waits for is the application.
    """

    times: ClassVar[Times] = Times()
    """What its peer is given to send a request, and to read an answer."""

    __slots__ = (
        "_answering", "_app_state", "_arrival", "_client", "_config", "_deadlines", "_fast_push", "_full",
        "_is_proxied", "_meter", "_pump", "_state", "_streams", "_transport", "_upgrades",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: uvicorn.server.ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,  # uvicorn's name
    ) -> None:
        if not config.loaded:
            config.load()
        self._config = config
        self._state = ServerState.of(server_state, config, app_state)
        self._app_state = app_state
        self._meter: Meter = app_state.get(METER, UNMETERED)
        self._fast_push = self._state.fast_push  # None where all requests go by ASGI
        self._upgrades, self._streams = self._state.upgrades, self._state.streams
        loop, times = _loop or self._state.links.loop, self._state.times(self.times)
        self._deadlines = Deadlines(loop, times, config.timeout_keep_alive, self)
        self._answering: Exchange | PushExchange | None = None
        self._full = False  # whether more is buffered than should be added to
        self._transport: asyncio.Transport
        """Valid once connected, as are the next four."""
        self._pump: RequestPump
        self._arrival: Arrival
        self._client: Address | None = None
        self._is_proxied = False  # whether the peer is a proxy that is trusted

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # that is what it gets
        """Begin to wait for the first request head."""
        self._transport = transport
        self._pump = RequestPump(self, transport, self._deadlines, self._state.links.backlog)
        self._client = peer_address(transport)
        self._is_proxied = self._state.proxies.trust(self._client and self._client[0])
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes
        self._state.links.sockets += 1
        self._arrival = self._state.arrivals.welcome(self, self._client if not self._is_proxied else None)
        self.await_head()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        """Tell what is being answered, and begin nothing more."""
        self._state.links.sockets -= 1
        self._let_go()
        if self._answering is not None:
            self._answering.disconnect()
        self._answering = None

    def data_received(self, data: bytes) -> None:
        """Read what came, as far as its turn has come."""
        if self._answering is None and self._pump.is_idle and not self._full:
            fast_push = self._fast_push
            known = None if fast_push is None else fast_push.cache.find(data)
            if fast_push is not None and known is not None:
                self._begin_known_push(fast_push, *known)
                return
            if self._upgrades.open_known(data, self) or (self._streams and self._streams.begin_known(data, self)):
                return
        self._pump.take(data)

    def pause_writing(self) -> None:
        """Note that the buffer is over its limit, and that the peer has to read."""
        self._full = True
        limit_send_buffer(self._transport)
        self._deadlines.buffer_is_full()

    def resume_writing(self) -> None:
        """Note that the buffer has room again."""
        self._full = False
        self._deadlines.buffer_has_room()
        if self._answering is not None:
            self._answering.writable()
        else:
            self._pump.go_on()

    def eof_received(self) -> None:
        """Close: the client sends nothing more. It still has its time to read what was written."""
        self.close()

    # Called by the pump.

    def can_begin(self) -> bool:
        """Whether the next request may be read now."""
        return self._answering is None and not self._full

    def await_head(self) -> None:
        """Give the peer its time for a request head, which has begun or is the first."""
        self._deadlines.await_head()
        self._arrival.await_head(self._deadlines.times.header)

    def admits_head(self) -> bool:
        """Note that a request head is whole; return whether there is room for the connection, or turn it away."""
        return not self._arrival.owes_head or self._arrival.head_came()

    def begin(self, head: RequestHead) -> None:
        """Answer a request by the shortest way that it can take."""
        if not self.admits_head():
            return
        if head.asks_for_websocket:
            self._upgrade(head)
        elif self._streams is not None and not self._full and self._streams.begin(head, self._pump.chunk, self):
            pass  # it lasts
        elif self._fast_push is None or self._full or (parsed := self._fast_push.parse(head)) is None:
            self._begin_exchange(head)
        else:
            self._begin_push(head, parsed)

    def refuse(self, error: BadRequestError) -> None:
        """Answer bytes that are not a request, and close: it is unknown where the next request would begin."""
        _logger.warning("Refused a request from %s: %s", self._client and self._client[0], error)
        if error.status in _TOO_LARGE:
            self._meter.limited("request_head")
        receiver, self._pump.receiver = self._pump.receiver, None
        if receiver is None or receiver.withdraw():
            self.write(text_response(error.status, self._state.default_headers, str(error)))
        self.close()

    # Pushes that are whole.

    def _begin_known_push(self, fast_push: FastPush, parsed: Parsed, body: bytes) -> None:
        """Begin to answer a push whose head is known, and needs no parsing."""
        if not self.admits_head():
            return
        self._deadlines.whole_request_came()
        self._answering = fast_push.begin(self, parsed, self.whom(parsed.client), body)

    def _begin_push(self, head: RequestHead, parsed: Parsed) -> None:
        """Begin to answer a push: by ASGI unless all of it has come."""
        body = self._pump.reader.body()
        if self._fast_push is None or not self._pump.reader.is_at_head:
            self._pump.give(self._begin_exchange(head), body)
            return
        if parsed.keep_alive:
            self._fast_push.cache.remember(self._pump.chunk, parsed, body)
        self._answering = self._fast_push.begin(self, parsed, self.whom(parsed.client), body)

    def whom(self, said: Address | None) -> Address | None:
        """Return the client of a request whose headers name ``said`` as its client."""
        return said if self._is_proxied and said else self._client

    # Other requests.

    def _begin_exchange(self, head: RequestHead) -> Exchange:
        """Let the application answer a request, whose body is read next."""
        exchange = Exchange(
            self,
            is_head=head.method == b"HEAD",
            is_1_0=head.version == "1.0",
            keep_alive=head.keep_alive,
            awaits_continue=head.awaits_continue,
        )
        server = get_local_addr(self._transport)
        scope = scope_of(head, self._config, server, *self.client_of(head))
        scope["state"] = self._app_state.copy()
        if head.method == b"GET" and head.version == "1.1":
            scope["extensions"] = {FANOUT: exchange.hand_over}
        self._answering = self._pump.receiver = exchange
        asgi.start(self._state.tasks, exchange.run(self._config.loaded_app, scope))
        return exchange

    def client_of(self, head: RequestHead) -> tuple[Address | None, bool]:
        """Return the client of a request, and whether it speaks TLS: as a trusted proxy says, if there is one."""
        is_tls = self._transport.get_extra_info("sslcontext") is not None
        if not self._is_proxied:
            return self._client, is_tls
        return self._state.proxies.client(head.headers, self._client, is_tls)

    def _upgrade(self, head: RequestHead) -> None:
        """Answer a handshake that has to be parsed."""
        client, is_tls = self.client_of(head)
        server = get_local_addr(self._transport)
        request = UpgradeRequest(head, is_tls, client, server, self._pump.reader.rest())
        self._upgrades.answer(request, self._state.proxies.read(head.headers).client, self._pump.chunk, self)

    def leave(self) -> asyncio.Transport:
        """Hand the connection over to another protocol, and keep nothing of it."""
        self._let_go()
        return self._transport

    def turn_away(self, error: RefusalError) -> None:
        """Answer with a refusal, and close."""
        self.write(text_response(error.status, [*self._state.default_headers, *error.headers], str(error)))
        self.close()

    # Called by the exchange, or the push, that is being answered.

    @property
    def default_headers(self) -> Headers:
        """What every answer of this server has."""
        return self._state.default_headers

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""
        if not self._transport.is_closing():
            self._deadlines.answer_size += len(data)
            self._transport.write(data)

    def is_full(self) -> bool:
        """Whether more is buffered than should be added to."""
        return self._full

    def read_on(self) -> None:
        """Read, if reading was paused."""
        self._pump.resume()

    def close(self) -> None:
        """End the connection when everything written has left, or the peer has not read it in time."""
        self._transport.close()
        buffered = self._transport.get_write_buffer_size()
        if buffered:
            self._deadlines.closing(buffered)

    def answered(self) -> None:
        """Answer the next request, or wait for it."""
        self._state.total_requests += 1
        self._answering = None
        if self._transport.is_closing():
            return
        self._deadlines.answered(body_has_ended=self._pump.receiver is None)
        self._pump.go_on()

    def answer_push(self, data: bytes, *, keep_alive: bool) -> None:
        """Send the whole answer to a push, and answer the next request, or wait for it; or close."""
        self._state.total_requests += 1
        self._answering = None
        transport = self._transport
        if transport.is_closing():
            return
        self._deadlines.answer_size = len(data)
        transport.write(data)
        if not keep_alive:
            self.close()
            return
        self._deadlines.answered(body_has_ended=True)
        if not self._pump.is_idle:
            self._pump.go_on()

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Leave the connection to the answer that is under way; requests behind it are not answered."""
        self._state.total_requests += 1
        self._let_go()
        self._answering = None
        stream = StreamProtocol(self._transport, self._state.links, heartbeat)
        stream.start(peer, head, is_full=self._full)
        return stream

    def _let_go(self) -> None:
        """Watch and read nothing more: the connection is lost, or another protocol has it."""
        self._state.connections.discard(self)
        self._deadlines.stop()
        self._arrival.end()
        self._pump.stop()

    # Called by the server.

    @property
    def is_answering(self) -> bool:
        """Whether a request is under way."""
        return self._answering is not None

    def cut(self) -> None:
        """End at once, because the server stops, unless the peer only waits for its answer."""
        waits_for_peer = self._pump.receiver is not None or self._full
        if waits_for_peer or not self.is_answering:
            self._transport.abort()

    def shutdown(self) -> None:
        """Close because the server stops, after what is being answered."""
        if self._answering is None:
            self.close()
        else:
            self._answering.keep_alive = False

    @property
    def is_reading(self) -> bool:
        """Whether the transport reads what the peer sends."""
        return not self._pump.is_paused

    # Called by the deadlines.

    def keeps_peer_waiting(self) -> bool:
        """Whether the peer cannot send its body, because the server does not read or has not told it to go on."""
        receiver = self._pump.receiver
        return not self.is_reading or (receiver is not None and receiver.awaits_continue)

    def head_is_late(self) -> None:
        """Close the connection: a request head has not come in time."""
        self.peer_is_late(to_read=False)

    def peer_is_late(self, *, to_read: bool) -> None:
        """Close the connection, and count the bound that its peer has met; to be idle meets none."""
        if to_read:
            self._meter.limited("answer_time")
        elif self._deadlines.awaited is not Awaited.REQUEST:
            self._meter.limited("request_time")
        if to_read or self._transport.get_write_buffer_size():
            abort(self._transport)
        else:
            self._transport.close()


_TOO_LARGE = (414, 431)
