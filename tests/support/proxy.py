"""A TCP proxy that breaks connections on purpose: resets, silence, latency, narrow links, refusals, forgery, moves."""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

CHUNK = 65_536
"""The most bytes that are read and passed on at once."""
CHUNKS = 64
"""The most chunks in flight in one direction of one connection; beyond them the proxy stops reading."""


class FaultProxy:
    """A proxy on a free port of 127.0.0.1, before one TCP server; an async context manager.

    It starts faultless, and a fault holds until ``heal``. The controls return at once and belong to the event loop that
    runs the proxy; a synchronous test calls them through ``anyio.from_thread.start_blocking_portal``. ``accepted``,
    ``refused`` and ``live`` count connections: those ever accepted, those refused, and those open now. ``turns`` counts
    how often one end spoke after the other, two to a round trip.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = 0  # The operating system chooses it when the proxy is entered.
        self.accepted = 0
        self.refused = 0
        self.turns = 0
        self._target = target_host, target_port
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}  # The live ones.
        self._writers: list[asyncio.StreamWriter] = []  # All that ever were: some may still be sending at the end.
        self._came = asyncio.Event()
        self._flowing = asyncio.Event()
        self.heal()

    def __repr__(self) -> str:
        """Tell its two ends, its connections and its fault."""
        state = "refusing" if self._refusing else "flowing" if self._flowing.is_set() else "half open"
        return f"<FaultProxy 127.0.0.1:{self.port} to {self._target[0]}:{self._target[1]}, {self.live} live, {state}>"

    @property
    def live(self) -> int:
        """The number of connections that are open now."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        """Start to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and reset what is live."""
        self._server.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)
        for writer in self._writers:
            _reset(writer)
            with suppress(OSError):
                await writer.wait_closed()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every live connection, at both ends, as a firewall or a dying machine does."""
        for task in self._links:
            task.cancel()

    def half_open(self) -> None:
        """Pass nothing on, either way, not even the end of a connection, as when a cable is pulled; close nothing.

        New connections are accepted and stay silent. What was sent meanwhile arrives after ``heal``.
        """
        self._flowing.clear()

    def forget(self) -> None:
        """Let every live connection be silent for ever, as a router does that has forgotten it; new ones flow.

        Neither end is told. ``heal`` doesn't bring them back; ``cut`` ends them.
        """
        forgotten, self._flowing = self._flowing, asyncio.Event()
        if forgotten.is_set():
            forgotten.clear()
            self._flowing.set()

    def lead_to(self, port: int) -> None:
        """Lead new connections to another port, as a name does that has moved; live ones stay where they are."""
        self._target = self._target[0], port

    def refuse(self) -> None:
        """Reset new connections as soon as they are accepted; live ones go on."""
        self._refusing = True

    def delay(self, seconds: float) -> None:
        """Let what arrives from now on wait, in each direction; it doesn't narrow the link."""
        self._delay = seconds

    def throttle(self, bytes_per_second: int) -> None:
        """Pass on no more than this, in each direction of each connection."""
        self._rate = bytes_per_second

    def forge(self, genuine: bytes, forged: bytes) -> None:
        """Replace some bytes by as many others, in each direction, where they arrive in one piece."""
        self._forgery = genuine, forged

    def heal(self) -> None:
        """End every fault; what was cut stays cut."""
        self._forgery = b"", b""
        self._refusing = False
        self._delay = 0.0
        self._rate = 0
        self._flowing.set()

    async def wait_accepted(self, total: int) -> None:
        """Return when this many connections have been accepted since the proxy began: wait here for a reconnection."""
        while self.accepted < total:
            await self._came.wait()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._refusing:
            self.refused += 1
            _reset(writer)
            return
        writers = [writer]
        task = asyncio.get_running_loop().create_task(self._link(reader, writers))
        self._links[task] = writers
        task.add_done_callback(self._end)
        self.accepted += 1
        self._came.set()
        self._came.clear()

    def _end(self, link: asyncio.Task[None]) -> None:
        # A callback, because a task that is cancelled before its first step runs no ``finally`` of its own.
        for writer in self._links.pop(link):
            if link.cancelled():
                _reset(writer)
            writer.close()

    async def _link(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> None:
        """Join one client to the target until both have ended; where one end fails, the other is reset."""
        flowing = self._flowing
        try:
            await flowing.wait()
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            writers.append(target_writer)
            self._writers.append(target_writer)
            speaker = [target_reader]
            async with asyncio.TaskGroup() as group:
                for source, sink in ((reader, target_writer), (target_reader, writers[0])):
                    queue = asyncio.Queue[tuple[float, bytes]](CHUNKS)
                    group.create_task(self._receive(source, queue, flowing, speaker))
                    group.create_task(self._send(queue, sink, flowing))
        except* OSError:
            for writer in writers:
                _reset(writer)

    async def _receive(
        self,
        source: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        flowing: asyncio.Event,
        speaker: list[asyncio.StreamReader],
    ) -> None:
        """Queue what arrives, with the time when it is due; at the end of the stream, nothing. Note who spoke last."""
        data = b"more"
        while data:
            try:
                data = await source.read(self._step())
            except ConnectionError:
                await flowing.wait()
                raise
            self.turns += source is not speaker[0]
            speaker[0] = source
            await queue.put((asyncio.get_running_loop().time() + self._delay, data))

    async def _send(
        self, queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        """Pass on what is queued when it is due."""
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await flowing.wait()
            if not data:
                sink.write_eof()
                return
            sink.write(data.replace(*self._forgery) if any(self._forgery) else data)
            await sink.drain()
            if self._rate:
                await asyncio.sleep(len(data) / self._rate)

    def _step(self) -> int:
        """Return how many bytes to read at once: under a throttle a fiftieth of a second's, so that it is even."""
        return min(CHUNK, max(1, self._rate // 50)) if self._rate else CHUNK


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST: what is unsent is dropped, and the other end's next read fails."""
    with suppress(OSError):  # It may be closed already.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
