"""Our server's reading of byte streams: its connection class over a transport without a socket, thousands at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

import uvicorn
import uvloop
from uvicorn.server import ServerState

from app.core.ports import DIRECT
from app.server.http.connection import HttpProtocol
from app.server.lasting.websocket import WebSocketProtocol
from tests.support.reading.corpus import Message
from tests.support.reading.echo import Echo, EchoDirect

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_QUIET_TURNS = 5
"""Turns of the loop without anything new, after which nothing more happens by itself."""

_AT_ONCE = 500
"""Connections that are open at the same time."""


class Outcome(NamedTuple):
    """What the application was asked, what the peer received, and whether the connection was closed then.

    ``received`` is without interim responses: whether the server asks for a body that has come is its own affair.
    """

    messages: tuple[Message, ...]
    received: bytes
    closed: bool


class Ours:
    """The server of an :class:`Echo`; ``direct`` says whether whole requests go past ASGI. Ends with the context."""

    def __init__(self, *, direct: bool = False) -> None:
        self.activity = 0
        """Counts whatever happens."""
        self._echo = Echo(self.notice)
        self._config = uvicorn.Config(
            self._echo,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        self._config.load()
        self._state = ServerState()
        self._app_state: dict[str, Any] = {DIRECT: EchoDirect(self._echo)} if direct else {}
        self.direct = direct
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._count = 0

    def notice(self) -> None:
        """Count that something happened."""
        self.activity += 1

    def known_target(self, method: str, target: str) -> str:
        """Return what can be known of a target where a request may have gone past ASGI."""
        return unquote(target.partition("?")[0]) if self.direct and method == "POST" else target

    def read(self, streams: Iterable[Sequence[bytes]]) -> list[Outcome]:
        """Return what becomes of each stream, whose segments arrive one by one."""
        every = list(streams)
        batches = (every[at : at + _AT_ONCE] for at in range(0, len(every), _AT_ONCE))
        return [outcome for batch in batches for outcome in self._runner.run(self._converse(batch))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    async def _converse(self, streams: list[Sequence[bytes]]) -> list[Outcome]:
        transports = [self._connect() for _ in streams]
        under_way = [(transport, iter(segments)) for transport, segments in zip(transports, streams, strict=True)]
        while under_way:
            rest = []
            for transport, segments in under_way:
                if (segment := next(segments, None)) is not None:
                    transport.arrive(segment)
                    rest.append((transport, segments))
            under_way = rest
            await self._settle()
        outcomes = [
            Outcome(
                tuple(self._echo.seen.pop(transport.host, ())),
                b"".join(transport.written).replace(CONTINUE, b""),
                transport.is_closing(),
            )
            for transport in transports
        ]
        for transport in transports:
            transport.abort()
        await self._settle()
        return outcomes

    def _connect(self) -> _Transport:
        self._count += 1
        protocol = HttpProtocol(self._config, self._state, self._app_state)
        transport = _Transport(self, f"client-{self._count}", protocol)
        protocol.connection_made(transport)
        return transport

    async def _settle(self) -> None:
        quiet = 0
        while quiet < _QUIET_TURNS:
            before = self.activity
            await asyncio.sleep(0)
            quiet = quiet + 1 if before == self.activity else 0


class _Transport(asyncio.Transport):
    """Delivers what arrives while reading goes on, and keeps what is written.

    It says that it is TLS, whose socket nobody may write to past the transport.
    """

    def __init__(self, ours: Ours, host: str, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": (host, 1), "sockname": ("server", 1), "sslcontext": True})
        self.host = host
        self.written: list[bytes] = []
        self._ours = ours
        self._protocol: asyncio.BaseProtocol = protocol
        self._unread: deque[bytes] = deque()
        self._paused = self._closing = self._lost = False

    def arrive(self, data: bytes) -> None:
        self._unread.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._unread and not self._paused and not self._closing:
            assert isinstance(self._protocol, asyncio.Protocol)
            self._ours.notice()
            self._protocol.data_received(self._unread.popleft())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._lost, "written to a connection that is lost"
        self._ours.notice()
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._ours.notice()
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def _lose(self) -> None:
        self._lost = True
        self._ours.notice()
        self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._ours.notice()
        self._paused = False
        asyncio.get_running_loop().call_soon(self._deliver)

    def is_reading(self) -> bool:
        return not self._paused

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""
