"""A small push every twenty milliseconds, and how long each takes: the effect of attackers on honest clients."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from statistics import quantiles

EVERY_SECONDS = 0.02

_PATIENCE = 10.0
_BODY = b'"%b"' % (b"x" * 126)
_REQUEST = (
    b"POST /push/probe HTTP/1.1\r\nHost: abide\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_BODY), _BODY)
_OK = b"HTTP/1.1 200 "

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Latency:
    """How long pushes took, and why some failed."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def push(self) -> Iterator[None]:
        """Note the time of one push."""
        began = time.perf_counter()
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            self.failures[f"{type(error).__name__}: {error}"[:100]] += 1
        self.seconds.append(time.perf_counter() - began)

    def percentiles(self) -> tuple[float, float, float]:
        """Return the median, the 99th percentile and the maximum, in milliseconds."""
        cuts = quantiles(self.seconds or [0.0, 0.0], n=100, method="inclusive")
        return cuts[49] * 1000, cuts[98] * 1000, max(self.seconds, default=0.0) * 1000


@dataclass(slots=True)
class Probe:
    """Pushes 128 bytes to ``probe``, each time on a new connection and on one that stays open."""

    port: int
    fresh: Latency = field(default_factory=Latency)
    kept: Latency = field(default_factory=Latency)

    async def run(self, seconds: float) -> None:
        """Push for this time. Pushes on new connections do not wait for earlier ones."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep(seconds))
            for number in range(int(seconds / EVERY_SECONDS)):
                await asyncio.sleep(began + number * EVERY_SECONDS - loop.time())
                tasks.create_task(self._push_once())

    async def _push_once(self) -> None:
        with self.fresh.push():
            async with asyncio.timeout(_PATIENCE), self._connected() as connection:
                await _push(connection)

    async def _keep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                async with self._connected() as connection:
                    failed = self.kept.failures.total()
                    while time.monotonic() < until and failed == self.kept.failures.total():
                        with self.kept.push():
                            async with asyncio.timeout(_PATIENCE):
                                await _push(connection)
                        await asyncio.sleep(EVERY_SECONDS)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def _push(connection: Connection) -> None:
    """Push, and read the answer. Raises ValueError for one that is not 200."""
    reader, writer = connection
    writer.write(_REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(_OK):
        raise ValueError(head.partition(b"\r\n")[0].decode("latin-1"))
    _, _, after = head.lower().partition(b"content-length: ")
    await reader.readexactly(int(after.partition(b"\r\n")[0]))
