"""HTTP/1.1 connections: requests in, each to its cycle, in order, and with deadlines.

In place of uvicorn's protocol, which waits for ever for the rest of a request that has begun, and
spends more on a small request than the application does. Here a request must arrive, and an answer be read, within
a bound of time; what a request needs is made once, and only when it is needed.

A request is read when the one before it has been answered. What a client sends ahead waits as bytes, and a
WebSocket can only begin when nothing is owed any more.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import Any, ClassVar, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from app.core.ports import FANOUT, METER, UNMETERED, Heartbeat, Meter, Peer, Writer
from app.server.http.deadlines import Patience, Times
from app.server.http.exchange import Cycle, Event
from app.server.http.fast_push import FastPush, Parsed, PushExchange
from app.server.http.forwarded import Address, TrustedProxies
from app.server.lasting.asgi_peer import Opening
from app.server.lasting.shared import Shared
from app.server.lasting.stream import StreamProtocol
from app.server.lasting.websocket import WebSocketProtocol
from app.server.sockets import abort, limit_send_buffer
from app.wire.handshake import RefusalError, Request, text_response
from app.wire.http1 import Headers
from app.wire.request_head import BadRequestError, RequestHead
from app.wire.request_reader import RequestReader

_logger = logging.getLogger("uvicorn.error")


class HttpProtocol(asyncio.Protocol):
    """One HTTP connection, until it ends, or becomes a WebSocket or a response that lasts.

    Invariant: the connection is closed at its deadline, unless all that it waits for is the application.
    """

    times: ClassVar[Times] = Times()
    """What its peer is given to send a request, and to read an answer."""

    body_high_water: ClassVar[int] = 64 * 1024
    """Bytes of a body that wait for the application, above which nothing more is read."""

    ahead_high_water: ClassVar[int] = 64 * 1024
    """Bytes sent behind a request that is not answered yet, above which nothing more is read."""

    large_head: ClassVar[int] = 8 * 1024
    """Bytes of a head from which on it is read in a turn of the event loop that has room for it."""

    __slots__ = (
        "_answering", "_app", "_app_state", "_awaits_header", "_chunk", "_client", "_config", "_excused", "_fast_push",
        "_full", "_is_idle", "_is_proxied", "_loop", "_meter", "_patience", "_proxies", "_read_paused", "_reader",
        "_reading", "_scheme", "_server", "_state", "_tasks", "_transport", "_written", "_yields",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,  # uvicorn's name
    ) -> None:
        if not config.loaded:
            config.load()
        self._config = config
        self._app = config.loaded_app
        self._state = server_state
        self._tasks = server_state.tasks
        self._app_state = app_state
        self._meter: Meter = app_state.get(METER, UNMETERED)
        self._loop = _loop or asyncio.get_running_loop()
        self._fast_push = FastPush.of(config, server_state, app_state)  # None where all requests go by ASGI
        self._proxies = TrustedProxies.of(config)
        self._transport: asyncio.Transport
        """Valid once connected, as are the next three."""
        self._server: tuple[str, int | None] | None = None
        self._client: Address | None = None
        self._is_proxied = False  # whether the peer is a proxy that is believed
        self._scheme = "http"

        self._reader = RequestReader()
        self._chunk = b""  # what is being read, if it began between two requests
        self._reading: Cycle | None = None  # whose body is being read
        self._answering: Cycle | PushExchange | None = None
        self._read_paused = False
        self._is_idle = True  # whether all that has come was read, and the next byte begins a request
        self._yields = False  # whether what has come waits for a turn
        self._full = False  # whether more is buffered than should be added to

        # None at the end: else each would keep the other.
        self._patience: Patience | None = Patience(self._loop, self.times, self._give_up, self._excuse)
        self._awaits_header = False  # whether a header has begun, or should have, and a limit runs for it
        self._excused = False  # whether the last look found that the peer could not go on
        self._written = 0  # bytes of the answer

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # that is what it gets
        """Begin to wait for the first header."""
        self._transport = transport
        self._server = get_local_addr(transport)
        self._client = get_remote_addr(transport)
        self._is_proxied = self._proxies.trust(self._client and self._client[0])
        self._scheme = "https" if is_ssl(transport) else "http"
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes
        self._awaits_header = True
        if self._patience is not None:
            self._patience.expect(self.times.header)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        """Let the application know, and begin nothing more."""
        self._let_go()
        if self._answering is not None:
            self._answering.disconnect()
        self._answering = self._reading = None

    def data_received(self, data: bytes) -> None:
        """Read what came, as far as its turn has come."""
        if self._is_idle and self._is_known_push(data):
            return
        self._chunk = data if self._is_idle else b""
        self._is_idle = False
        self._reader.feed(data)
        if (
            self._reader.is_at_head
            and self._reader.size > self.large_head
            and data.find(b"\r\n\r\n", 0, self.large_head) < 0
        ):
            self._yield()
        else:
            self._read()
        self._chunk = b""

    def pause_writing(self) -> None:
        """Note that the buffer is over its limit, and that the peer has to read."""
        self._full = True
        limit_send_buffer(self._transport)
        if self._patience is not None:
            self._patience.full(self._written)

    def resume_writing(self) -> None:
        """Note that the buffer has room again."""
        self._full = False
        if self._patience is not None:
            self._patience.drained()
        if self._answering is not None:
            self._answering.drained()
        elif not self._yields:
            self.read_on()
            self._read()

    def eof_received(self) -> None:
        """Close: the client has gone, or says nothing more. What it has not read yet it has to read in time."""
        self.close()

    # Reading.

    def _read(self) -> None:
        """Read on in what has come, until more is needed, or it is somebody else's turn."""
        self._read_on()
        self._is_idle = self._reader.is_at_head and not self._reader.has_begun

    def _read_on(self) -> None:
        try:
            while (patience := self._patience) is not None and not self._transport.is_closing():
                if self._reading is not None:
                    if not self._read_body(self._reading, patience):
                        return
                elif self._answering is not None or self._full:
                    if self._reader.size > self.ahead_high_water:
                        self._pause_reading()
                    return
                elif not self._read_head(patience):
                    return
        except BadRequestError as error:
            self._refuse(error)

    def _read_head(self, patience: Patience) -> bool:
        """Begin with the next request; return whether its head has come."""
        head = self._reader.head()
        if head is None:
            if self._reader.has_begun and not self._awaits_header:
                self._awaits_header = True
                patience.expect(self.times.header)
            return False
        self._awaits_header = False
        patience.expect_nothing()
        if head.asks_for_websocket:
            self._upgrade(head)
        elif self._fast_push is None or self._full or (parsed := self._fast_push.parse(head)) is None:
            self._begin(head)
        else:
            self._begin_push(self._fast_push, head, parsed)
        return True

    def _read_body(self, cycle: Cycle, patience: Patience) -> bool:
        """Give what has come of the body to its cycle; return whether it is complete."""
        self._give(cycle, self._reader.body())
        if self._reader.is_at_head:
            self._reading = None
            patience.expect_nothing()
            cycle.end()
            return True
        if self._answering is not None:  # else it was answered already, and only has to end
            patience.expect_body()
        if self._reader.has_more:
            self._yield()
        return False

    def _give(self, cycle: Cycle, body: bytes) -> None:
        if body:
            if self._patience is not None:
                self._patience.moved(len(body))
            if cycle.feed(body) > self.body_high_water:
                self._pause_reading()

    def _yield(self) -> None:
        """Read on in a turn of the event loop that has room for it."""
        self._yields = True
        self._pause_reading()
        self._share().backlog.join(self._read_again)

    def _read_again(self) -> None:
        if self._patience is None:  # it is another's by now, or gone
            return
        self._yields = False
        self.read_on()
        try:
            self._read()
        except Exception:  # nobody else would end it
            _logger.exception("connection_failed")
            abort(self._transport)

    # Pushes that are whole.

    def _is_known_push(self, data: bytes) -> bool:
        """Begin with a push whose head is known, and needs no parsing; return whether it is one."""
        if self._fast_push is None or self._answering is not None or self._full:
            return False
        known = self._fast_push.cache.find(data)
        if known is None:
            return False
        self._awaits_header = False
        self._push(self._fast_push, *known)
        return True

    def _begin_push(self, fast_push: FastPush, head: RequestHead, parsed: Parsed) -> None:
        """Begin with a push: by ASGI unless all of it has come."""
        body = self._reader.body()
        if not self._reader.is_at_head:
            self._give(self._begin(head), body)
            return
        if parsed.keep_alive:
            fast_push.cache.remember(self._chunk, parsed, body)
        self._push(fast_push, parsed, body)

    def _push(self, fast_push: FastPush, parsed: Parsed, body: bytes) -> None:
        client = parsed.client if self._is_proxied and parsed.client else self._client
        self._answering = fast_push.begin(self, parsed, client, body)

    # Other requests.

    def _begin(self, head: RequestHead) -> Cycle:
        """Begin to answer a request, whose body is read next."""
        cycle = Cycle(
            self,
            is_head=head.method == b"HEAD",
            is_1_0=head.version == "1.0",
            keep_alive=head.keep_alive,
            awaits_continue=head.awaits_continue,
        )
        scope = self._scope(head)
        if head.method == b"GET" and head.version == "1.1":
            scope["extensions"] = {FANOUT: cycle.hand_over}
        self._answering = self._reading = cycle
        self._excused = False
        if self._patience is not None:
            self._patience.begin_body()
        task = self._loop.create_task(cycle.run(self._app, scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return cycle

    def _sender(self, head: RequestHead) -> tuple[Address | None, bool]:
        """Return the client of a request, and whether it speaks TLS: what a trusted proxy says goes first."""
        client, is_tls = self._client, self._scheme == "https"
        if self._is_proxied:
            forwarded = self._proxies.read(head.headers)
            client = forwarded.client or client
            is_tls = is_tls if forwarded.is_tls is None else forwarded.is_tls
        return client, is_tls

    def _scope(self, head: RequestHead) -> Event:
        path, raw_path, query = head.target
        client, is_tls = self._sender(head)
        root_path = self._config.root_path
        return {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": self._server,
            "client": client,
            "scheme": "https" if is_tls else "http",
            "root_path": root_path,
            "method": head.method.decode("ascii"),
            "path": root_path + path,
            "raw_path": root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": list(head.headers),
            "state": self._app_state.copy(),
        }

    # Called by the cycle that is being answered.

    @property
    def default_headers(self) -> Headers:
        """What every answer of this server has."""
        return self._state.default_headers

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""
        if not self._transport.is_closing():
            self._written += len(data)
            self._transport.write(data)

    def is_full(self) -> bool:
        """Whether more is buffered than should be added to."""
        return self._full

    def read_on(self) -> None:
        """Read, if reading was paused."""
        if self._read_paused and not self._yields and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection when what was written has left; what is not read in time is dropped."""
        self._transport.close()
        buffered = self._transport.get_write_buffer_size()
        if buffered and self._patience is not None:
            self._patience.close(buffered)

    def answered(self) -> None:
        """Answer the next request, or wait for it."""
        self._state.total_requests += 1
        self._answering = None
        self._written = 0
        if self._patience is None or self._transport.is_closing():
            return
        self._patience.answered(self._config.timeout_keep_alive if self._reading is None else self.times.linger)
        if self._read_paused:
            self.read_on()
        if not self._is_idle and not self._yields:
            self._read()

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Leave the connection to the answer that is under way; what was asked for behind it is not answered."""
        self._state.total_requests += 1
        self._let_go()
        self._answering = self._reading = None
        self._yields = False
        self.read_on()
        stream = StreamProtocol(self._transport, self._share(), heartbeat)
        stream.start(peer, head, is_full=self._full)
        return stream

    def _share(self) -> Shared:
        """Return what all connections of the server have in common."""
        protocol = cast("type[WebSocketProtocol]", self._config.ws_protocol_class)
        return protocol.share(self._config, self._state, self._app_state)

    # Called by the server.

    @property
    def is_answering(self) -> bool:
        """Whether a request is under way."""
        return self._answering is not None

    def cut(self) -> None:
        """End at once because the server stops, unless the peer only waits for its answer."""
        waits_for_peer = self._reading is not None or self._full
        if waits_for_peer or not self.is_answering:
            self._transport.abort()

    def shutdown(self) -> None:
        """Close because the server stops, after what is being answered."""
        if self._answering is None:
            self.close()
        else:
            self._answering.keep_alive = False

    # Upgrades and refusals.

    def _refuse(self, error: BadRequestError) -> None:
        """Answer what is no request, and close: where the next one would begin, nobody can tell."""
        _logger.warning("Refused a request from %s: %s", self._client and self._client[0], error)
        if error.status in _TOO_LARGE:
            self._meter.limited("request_head")
        cycle, self._reading = self._reading, None
        if cycle is None or cycle.withdraw():
            self.write(text_response(error.status, self._state.default_headers, str(error)))
        self.close()

    def _upgrade(self, head: RequestHead) -> None:
        """Hand the connection over to a WebSocket, and keep nothing of it; or refuse what is no handshake."""
        client, is_tls = self._sender(head)
        request = Request(head, is_tls, client, self._server, self._reader.rest())
        try:
            opening = Opening.of(request, self._config, self._state)
        except RefusalError as error:
            headers = [*self._state.default_headers, *error.headers]
            self.write(text_response(error.status, headers, str(error)))
            self.close()
            return
        self._let_go()
        opening.start(self._transport, self._config, self._state, self._app_state)

    def _let_go(self) -> None:
        """Watch and read nothing more: the connection is another's, or gone."""
        self._state.connections.discard(self)
        if self._patience is not None:
            self._patience.stop()
            self._patience = None

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    # Called by its patience.

    def _excuse(self) -> float:
        """Return the seconds that a peer is given that has sent nothing because it could not."""
        if self._answering is None:
            return 0
        if self._reading is None:
            return inf  # the next header may wait until the answer is complete
        # While it is the application that keeps the peer waiting, the peer is excused, and for one
        # more period: it may have been told to go on only just now.
        excused = self._read_paused or self._reading.awaits_continue
        before, self._excused = self._excused, excused
        return self.times.body if excused or before else 0

    def _give_up(self, has_to_read: bool) -> None:  # noqa: FBT001 — its one argument
        """Close the connection: its peer is late."""
        if has_to_read:
            self._meter.limited("answer_time")
        elif self._awaits_header or self._reading is not None:
            self._meter.limited("request_time")
        if has_to_read or self._transport.get_write_buffer_size():
            abort(self._transport)
        else:
            self._transport.close()


_TOO_LARGE = (414, 431)
