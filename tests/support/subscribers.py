"""Subscribers of every form, which write down all they are told and come back where they were.

Each runs in a task of its own (:meth:`Subscriber.run`) and can be told to stop reading, to vanish and to come back.
The load client connects and reads for them; what is theirs alone is what their form tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

import aiohttp

from tests.support import load_client
from tests.support.load_client import V1_PROTOCOL, Connection, WebSocket
from tests.support.verdict import Cut, Log, Timeline, offset_of

LOST = (OSError, aiohttp.ClientError, TimeoutError)
"""What may happen to a connection: its subscriber comes back."""

PAUSE = 0.05
"""Seconds before it does, unless it is told otherwise."""

NOWHERE, AFTER_NOWHERE = "live:0", "live:1"
"""Positions where the backend has none: our clients resume from the first, and are told of a gap."""

CONNECT_SECONDS = 10.0


class Subscriber:
    """One subscriber of one form, with a log for each of its channels.

    ``receive_buffer`` bounds what the operating system takes for it while it does not read; ``pause`` are the seconds
    before it comes back.
    """

    form: ClassVar[str]
    plain: ClassVar[bool] = False

    def __init__(
        self,
        url: str,
        *channels: str,
        timeline: Timeline,
        name: str = "",
        receive_buffer: int | None = None,
        pause: float = PAUSE,
    ) -> None:
        self.name = f"{name}{self.form}"
        self.logs = {channel: Log(self.name, channel, plain=self.plain) for channel in channels}
        self._url = url
        self._timeline = timeline
        self._receive_buffer = receive_buffer
        self._pause = pause
        self._here, self._reading, self._open = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._here.set()
        self._reading.set()
        self._listening: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    def __repr__(self) -> str:
        return f"<Subscriber {self.name} {', '.join(str(log.position) for log in self.logs.values())}>"

    async def run(self) -> None:
        """Connect, listen and come back, until cancelled; raise what is no matter of a connection."""
        while True:
            await self._here.wait()
            self._listening = asyncio.create_task(self.listen())
            try:
                await asyncio.wait((self._listening,))
            finally:
                self._listening.cancel()
                (ended,) = await asyncio.gather(self._listening, return_exceptions=True)
                self._open.clear()
            for log in self.logs.values():
                log.cut()
            if not isinstance(ended, (*LOST, asyncio.CancelledError)):
                raise ended or AssertionError(f"{self.name} ended by itself")
            self._timeline.note(f"lost its connection: {ended!r}", by=self.name)
            await asyncio.sleep(self._pause)

    @property
    def has_been_cut(self) -> bool:
        """Whether it has lost a connection."""
        return any(isinstance(told, Cut) for log in self.logs.values() for told in log.told)

    async def opened(self) -> None:
        """Return when every channel is subscribed to."""
        await self._open.wait()

    def leave(self) -> None:
        """Vanish: the connection is cut in the middle of whatever comes."""
        self._here.clear()
        if self._listening is not None:
            self._listening.cancel()

    def come(self) -> None:
        """Come back."""
        self._here.set()

    def stall(self) -> None:
        """Read nothing more."""
        self._reading.clear()
        if self._connection is not None and self._connection.opened.done():
            self._connection.pause()

    def go_on(self) -> None:
        """Read again."""
        self._reading.set()
        if self._connection is not None:
            self._connection.go_on()

    async def listen(self) -> None:
        """Be connected once: never returns but by an error."""
        raise NotImplementedError

    @property
    def channel(self) -> str:
        """The channel, of those that have one."""
        (channel,) = self.logs
        return channel

    async def stay(self, connection: Connection, then: Callable[[], None] = lambda: None) -> NoReturn:
        """Open a connection, do ``then``, and raise in the end why it has ended."""
        self._connection = connection
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect(urlsplit(self._url).port or 80, receive_buffer=self._receive_buffer)
                await connection.opened
            then()
            if not self._reading.is_set():  # who stalls finishes the handshake
                connection.pause()
            await connection.over
        finally:
            connection.end()
        raise connection.error

    @contextlib.asynccontextmanager
    async def http(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Open what makes requests on sockets with the small buffer."""
        connector = aiohttp.TCPConnector(socket_factory=lambda _: self._socket())
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=16_384) as session:
            yield session

    def _socket(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(0)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        return sock


class Plain(Subscriber):
    """A plain WebSocket, which knows no positions and begins at the head."""

    form = "plain"
    plain = True

    async def listen(self) -> None:
        await self.stay(WebSocket(f"/{self.channel}", self.take), self._open.set)

    def take(self, text: bytes) -> None:
        """Write down one message."""
        self.logs[self.channel].got(None, json.loads(text))


class V1Subscriber(Subscriber):
    """What speaks ``abide.v1``."""

    def websocket(self, target: str) -> WebSocket:
        """Return a WebSocket of which nothing has come yet."""
        self._begun: set[str] = set()
        return WebSocket(target, self.take, V1_PROTOCOL)

    def take(self, text: bytes) -> None:
        """Write down one frame."""
        frame = json.loads(text)
        log = self.logs[frame["channel"]]
        match frame["type"]:
            case "subscribed":
                log.began(frame["position"] or NOWHERE, resumed=frame["resumed"])
            case "gap":
                log.missed(frame["after"] or NOWHERE, frame["next"] or AFTER_NOWHERE, frame["reason"])
            case "message":
                log.got(frame["position"], frame["data"])
            case _:  # the backend was away, for one
                raise ConnectionError(json.dumps(frame))
        self._begun.add(log.channel)
        if len(self._begun) == len(self.logs):
            self._open.set()


class V1(V1Subscriber):
    """``abide.v1`` on ``/{channel}``."""

    form = "abide.v1"

    async def listen(self) -> None:
        position = self.logs[self.channel].position
        await self.stay(self.websocket(f"/{self.channel}" + (f"?since={position}" if position else "")))


class ManyV1(V1Subscriber):
    """``abide.v1`` on ``/ws``, with all channels on one socket."""

    form = "ws"

    async def listen(self) -> None:
        opened = self.websocket("/ws")

        def subscribe() -> None:
            for log in self.logs.values():
                begin = {"since": log.position} if log.position else {}
                opened.send(json.dumps({"type": "subscribe", "channel": log.channel, **begin}))

        await self.stay(opened, subscribe)


class EventStream(Subscriber):
    """Server-Sent Events, resumed as EventSource does it."""

    form = "sse"

    async def listen(self) -> None:
        position = self.logs[self.channel].position
        headers = (f"Last-Event-ID: {position}",) if position else ()
        await self.stay(load_client.EventStream(f"/{self.channel}", self.take, *headers))

    def take(self, event: Mapping[str, str]) -> None:
        """Write down one event."""
        log = self.logs[self.channel]
        match event.get("event"):
            case "gap":
                gap = json.loads(event["data"])
                log.missed(gap["after"] or NOWHERE, gap["next"] or AFTER_NOWHERE, gap["reason"])
            case "closed":
                raise ConnectionError(event["data"])
            case _ if "data" in event:
                log.got(event.get("id"), json.loads(event["data"]))
            case _:  # EventSource keeps it as its position, whatever it is
                log.began(event["id"], resumed=True)
        self._open.set()


class LongPoll(Subscriber):
    """``/history`` with ``wait``, again and again."""

    form = "poll"

    async def listen(self) -> None:
        log = self.logs[self.channel]
        async with self.http() as http:
            if log.position is None:
                page = await self._page(http, limit="0")
                log.began(f"{page['epoch']}:{page['last']}", resumed=False)
            while True:
                await self._reading.wait()
                assert log.position is not None
                since = log.position
                page = await self._page(http, since=since, limit="50", wait="0" if not self._open.is_set() else "30")
                self._open.set()
                if not page["complete"]:
                    held = [message["position"] for message in page["messages"]]
                    reason = "expired" if offset_of(since) + 1 < page["first"] else "ahead"
                    log.missed(since, held[0] if held else f"{page['epoch']}:{page['last'] + 1}", reason)
                for message in page["messages"]:
                    log.got(message["position"], message["data"])

    async def _page(self, http: aiohttp.ClientSession, **query: str) -> dict[str, Any]:
        async with http.get(f"{self._url}/{self.channel}/history", params=query) as response:
            response.raise_for_status()
            page: dict[str, Any] = await response.json()
            return page


@contextlib.asynccontextmanager
async def running(subscribers: Sequence[Subscriber]) -> AsyncIterator[None]:
    """Run subscribers; raises what one of them raises."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(subscriber.run()) for subscriber in subscribers]
        yield
        for task in tasks:
            task.cancel()
