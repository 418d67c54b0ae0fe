"""HTTP/1.1 connections: requests in, each to its cycle, in order, and with deadlines.

In place of uvicorn's protocol, which waits for ever for the rest of a request that has begun, and
spends more on a small request than the application does. Here a request header must be complete in
time and of a sane size, and a body must not stall; what a request needs is made once, and only when
it is needed. Parsing is httptools'.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import Enum, auto
from typing import Any, ClassVar, NamedTuple, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from app.core.ports import FANOUT, Heartbeat, Peer, Writer
from app.server import whole
from app.server.asgi import open_websocket
from app.server.cycle import Cycle, Event
from app.server.handshake import Request, text_response
from app.server.heads import Headers, target
from app.server.stream import StreamProtocol
from app.server.websocket import WebSocketProtocol

_logger = logging.getLogger("uvicorn.error")


class _Phase(Enum):
    """What the parser has seen last."""

    BETWEEN = auto()
    HEADER = auto()
    BODY = auto()


class _Pending(NamedTuple):
    """A request whose turn has not come."""

    cycle: Cycle
    scope: Event


class HttpProtocol(asyncio.Protocol):
    """One HTTP connection, until it ends, or becomes a WebSocket or a response that lasts.

    Invariant: unless a request is being answered, or the body of one waits for the application,
    the connection is closed at its deadline. The timer fires then or earlier; a deadline that moves
    away does not touch it.
    """

    header_timeout: ClassVar[float] = 10.0
    """Seconds from connecting, or from a later request's first byte, to the header's end."""

    body_timeout: ClassVar[float] = 30.0
    """Seconds that a request's body may pause."""

    max_header_size: ClassVar[int] = 64 * 1024
    """Bytes that an unfinished header may have."""

    body_high_water: ClassVar[int] = 64 * 1024
    """Bytes of a body that wait for the application, above which nothing more is read."""

    __slots__ = (
        "_answering", "_app", "_app_state", "_at_boundary", "_awaits_continue", "_awaits_header", "_chunk", "_client",
        "_config", "_deadline", "_desk", "_excused", "_fires_at", "_full", "_header_size", "_headers", "_held", "_loop",
        "_moved", "_parser", "_phase", "_read_paused", "_reading", "_scheme", "_server", "_state", "_tasks", "_timer",
        "_transport", "_url", "_waiting",
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
        self._loop = _loop or asyncio.get_running_loop()
        self._desk = whole.Desk.of(config, server_state, app_state)  # None where all requests go to the application
        self._parser: Any = httptools.HttpRequestParser(self)  # None at the end: else each would keep the other
        # A peer may pipeline behind a request that closes; it is answered as far as that.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._transport: asyncio.Transport
        """Valid once connected, as are the next three."""
        self._server: tuple[str, int | None] | None = None
        self._client: tuple[str, int] | None = None
        self._scheme = "http"

        self._phase = _Phase.BETWEEN
        self._url = b""  # of the request that is parsed, as the next three; valid from Phase.HEADER on
        self._headers: list[tuple[bytes, bytes]] = []
        self._awaits_continue = False
        self._reading: Cycle | None = None  # whose body is read; valid in Phase.BODY
        self._chunk = b""  # what is being parsed, if it began between two requests
        self._held: bytes | None = None  # the body, so far, of a request that may turn out to be whole
        self._answering: Cycle | whole.Answer | None = None
        self._waiting: deque[_Pending] | None = None  # requests behind the one that is being answered
        self._at_boundary = False  # whether what data_received parsed ended with a request's last byte
        self._awaits_header = False  # whether the deadline is that of a header which has begun, or should have
        self._header_size = 0  # of the unfinished header
        self._moved = False  # whether the body has, in what data_received parsed
        self._read_paused = False
        self._full = False  # whether more is buffered than should be added to

        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0  # loop time; valid while there is a timer
        self._deadline = 0.0  # loop time, of the header, the body, or the pause between requests
        self._excused = False  # whether the last look found that the peer could not go on

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # that is what it gets
        """Begin to wait for the first header."""
        self._transport = transport
        self._server = get_local_addr(transport)
        self._client = get_remote_addr(transport)
        self._scheme = "https" if is_ssl(transport) else "http"
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes
        self._awaits_header = True
        self._expect_within(self.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        """Let the application know, and begin nothing more."""
        self._state.connections.discard(self)
        self._stop()
        if self._answering is not None:
            self._answering.disconnect()
        self._answering = self._reading = self._waiting = None
        self._parser = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, then watch whatever it has left unfinished."""
        if self._phase is _Phase.BETWEEN and self._offer_known(data):
            return
        self._at_boundary = self._moved = False
        self._chunk = data if self._phase is _Phase.BETWEEN else b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse("Invalid HTTP request received.")
            return
        finally:
            self._chunk = b""
        if self._held is not None:
            self._release()
        if self._at_boundary or self._transport.is_closing():
            return
        if self._phase is _Phase.BODY:
            if self._moved:
                self._expect_within(self.body_timeout)
            return
        # A header, or the line breaks that may stand before one.
        if not self._awaits_header:
            self._awaits_header = True
            self._expect_within(self.header_timeout)
        self._header_size += len(data)
        if self._header_size > self.max_header_size:
            self._refuse("Request header too large.")

    def pause_writing(self) -> None:
        """Note that the buffer is over its limit."""
        self._full = True

    def resume_writing(self) -> None:
        """Note that the buffer has room again."""
        self._full = False
        if self._answering is not None:
            self._answering.drained()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Note that a header has begun."""
        self._phase, self._at_boundary = _Phase.HEADER, False
        self._url, self._headers, self._awaits_continue = b"", [], False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._awaits_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin to answer, or queue the request behind another."""
        self._phase, self._header_size, self._awaits_header = _Phase.BODY, 0, False
        self._moved, self._excused = True, False
        parser = self._parser
        if parser.should_upgrade() and self._asks_for_websocket():
            return  # the parser stops here
        if self._may_be_whole():
            self._held = b""
        else:
            self._begin()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._moved = True
        if self._held is not None:
            self._held += body
        elif self._reading is not None and self._reading.feed(body) > self.body_high_water:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """Note that the request is complete, or was an upgrade."""
        self._phase, self._at_boundary = _Phase.BETWEEN, True
        if self._held is not None and not self._offer_held():
            self._release()
        if self._reading is not None:
            self._reading.end()
            self._reading = None

    # Requests that are whole.

    def _may_be_whole(self) -> bool:
        parser = self._parser
        return (
            self._desk is not None
            and self._answering is None
            and not self._full
            and not self._awaits_continue
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
        )

    def _offer_known(self, data: bytes) -> bool:
        """Offer what needs no parsing; return whether it was taken."""
        if self._desk is None or self._answering is not None or self._full:
            return False
        known = self._desk.known(data)
        if known is None or not self._offer(self._desk, *known):
            return False
        self._header_size, self._awaits_header = 0, False
        return True

    def _offer_held(self) -> bool:
        """Offer what was parsed; return whether it was taken."""
        assert self._desk is not None and self._held is not None  # noqa: S101, PT018 — else nothing is held
        request = whole.Request.of(self._config.root_path + target(self._url).path, self._headers)
        if not self._offer(self._desk, request, self._held):
            return False
        self._desk.learn(self._chunk, request, self._held)
        self._held = None
        return True

    def _offer(self, desk: whole.Desk, request: whole.Request, body: bytes) -> bool:
        answer = whole.Answer(self)
        if not desk.take(answer, request, self._client, body):
            return False
        self._answering = answer
        return True

    def _release(self) -> None:
        """Give what was held to the application."""
        body, self._held = self._held, None
        self._begin()
        if body:
            self.on_body(body)

    # Other requests.

    def _begin(self) -> None:
        """Begin to answer the request that is parsed, or queue it behind another."""
        parser = self._parser
        method, version = parser.get_method(), parser.get_http_version()
        self._reading = cycle = Cycle(
            self,
            is_head=method == b"HEAD",
            is_1_0=version == "1.0",
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            awaits_continue=self._awaits_continue,
        )
        scope = self._scope(method.decode("ascii"), version)
        if method == b"GET" and version == "1.1":
            scope["extensions"] = {FANOUT: cycle.hand_over}
        if self._answering is None:
            self._answer(cycle, scope)
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(_Pending(cycle, scope))
        self._pause_reading()

    def _scope(self, method: str, version: str) -> Event:
        path, raw_path, query = target(self._url)
        root_path = self._config.root_path
        return {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "root_path": root_path,
            "method": method,
            "path": root_path + path,
            "raw_path": root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }

    def _answer(self, cycle: Cycle, scope: Event) -> None:
        self._answering = cycle
        task = self._loop.create_task(cycle.run(self._app, scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Called by the cycle that is being answered.

    @property
    def default_headers(self) -> Headers:
        """What stands in every answer of this server."""
        return self._state.default_headers

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def is_full(self) -> bool:
        """Whether more is buffered than should be added to."""
        return self._full

    def read_on(self) -> None:
        """Read, if reading was paused."""
        if self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection when what was written has left."""
        self._transport.close()

    def answered(self) -> None:
        """Answer the next request, or wait for it."""
        self._state.total_requests += 1
        self._answering = None
        if self._transport.is_closing():
            return
        if self._waiting:
            self._answer(*self._waiting.popleft())
            return
        self.read_on()
        if self._awaits_header:
            self._expect_within(self.header_timeout)
        elif self._phase is _Phase.BETWEEN:
            self._expect_within(self._config.timeout_keep_alive)

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Leave the connection to the answer that is under way; what was asked for behind it is not answered."""
        self._state.total_requests += 1
        self._let_go()
        self._answering = self._reading = self._waiting = None
        self.read_on()
        shared = cast("type[WebSocketProtocol]", self._config.ws_protocol_class).share(self._config, self._state)
        stream = StreamProtocol(self._transport, shared, heartbeat)
        stream.start(peer, head, is_full=self._full)
        return stream

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
        last = self._waiting[-1].cycle if self._waiting else self._answering
        if last is None:
            self._transport.close()
        else:
            last.keep_alive = False

    # Upgrades and refusals.

    def _refuse(self, why: str) -> None:
        _logger.warning(why)
        self.write(text_response(400, self._state.default_headers, why))
        self._transport.close()

    def _asks_for_websocket(self) -> bool:
        return (b"upgrade", b"websocket") in self._headers or any(
            name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in self._headers
        )

    def _upgrade(self, rest: bytes) -> None:
        """Hand the connection over with its parsed request, and keep nothing of it; ``rest`` came after the header."""
        if not self._asks_for_websocket():
            _logger.warning("Unsupported upgrade request.")
        elif self._answering is not None:
            self._transport.close()  # it asks before it has had the answer to an earlier request
        else:
            parser = self._parser
            self._let_go()
            request = Request(
                parser.get_method(),
                parser.get_http_version(),
                self._url,
                self._headers,
                self._scheme == "https",
                self._client,
                self._server,
                rest,
            )
            open_websocket(self._transport, request, self._config, self._state, self._app_state)

    def _let_go(self) -> None:
        """Watch and parse nothing more: the connection becomes another's."""
        self._stop()
        self._state.connections.discard(self)
        self._parser = None

    # Deadlines.

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _expect_within(self, seconds: float) -> None:
        """Close the connection after so long, unless what it waits for has come."""
        self._deadline = deadline = self._loop.time() + seconds
        if self._timer is not None and self._fires_at > deadline:
            self._stop()
        if self._timer is None:
            self._fires_at = deadline
            self._timer = self._loop.call_at(deadline, self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._phase is _Phase.BODY:
            # While it is the application that keeps the peer waiting, the peer is excused, and for one
            # more period: it may have been told to go on only just now.
            excused = self._read_paused or (self._reading is not None and self._reading.awaits_continue)
            if excused or self._excused:
                self._deadline = now + self.body_timeout
            self._excused = excused
        elif self._answering is not None:
            return  # the rest of the next header may wait until the answer is complete
        if self._deadline > now:
            self._expect_within(self._deadline - now)
        else:
            self._transport.close()
