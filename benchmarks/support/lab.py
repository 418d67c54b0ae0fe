"""The laboratory: one PostgreSQL, a fresh database for every measurement, and the faults on the way."""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from app.bus.postgres import migrate
from benchmarks.support import sides
from benchmarks.support.messages import Receipt
from benchmarks.support.processes import Flow, Process, Worker
from tests.support.postgres import SETTINGS, PostgresServer

RECEIVERS = 2

_COMMAND_SECONDS = 60.0

SHARED_BUFFERS = "256MB"
"""More than the tests' server has: a production server is not starved of memory either."""

_UNEXPECTED = re.compile(r"(?:ERROR|FATAL|PANIC):  (.*)")
_EXPECTED = re.compile(r"terminating .* due to administrator|the database system is|payload string too long")


@dataclass(frozen=True, slots=True)
class Options:
    """How much to measure."""

    quick: bool
    rounds: int
    kills: int

    @property
    def seconds(self) -> float:
        """How long one measurement publishes."""
        return 0.5 if self.quick else 3.0


@dataclass(slots=True)
class Section:
    """One table of the report. ``data`` is what the table was made from."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Deployment:
    """The processes of one side, with their own database."""

    side: sides.Name
    database: str
    publisher: Process
    receivers: list[Process]

    async def received(self, published: Mapping[str, int], patience: float = 60.0) -> list[Receipt]:
        """Return the messages of every receiver when it has all of them or has waited too long."""
        return await asyncio.gather(*(one.ask(Worker.received, published, patience) for one in self.receivers))


class Lab:
    """The state that the measurements share. ``faults`` fail the run; ``logged`` is for the report."""

    def __init__(self, server: PostgresServer, options: Options) -> None:
        self.server = server
        self.options = options
        self.faults: list[str] = []
        self.logged: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._template = ""

    @contextlib.asynccontextmanager
    async def database(self, side: sides.Name) -> AsyncIterator[str]:
        """Make a database, for our side with the schema in it, and drop it at the end."""
        if side == "abide" and not self._template:
            self._template = await self.server.create_database()
            await migrate(self.server.url(self._template))
        name = await self.server.create_database(self._template if side == "abide" else None)
        try:
            yield name
        finally:
            await self.server.drop_database(name)

    @contextlib.asynccontextmanager
    async def processes(self, side: sides.Name, database: str, count: int) -> AsyncIterator[list[Process]]:
        """Start processes; at the end take their logs and stop them."""
        url = self.server.url(database)
        async with contextlib.AsyncExitStack() as stack:
            started = [Process(side, url) for _ in range(count)]
            for process in started:
                await stack.enter_async_context(process)
            yield started
            for process in started:
                self._take_log(side, await process.ask(Worker.logged))

    @contextlib.asynccontextmanager
    async def deployment(self, side: sides.Name, *, recording: bool) -> AsyncIterator[Deployment]:
        """Start a publisher and receivers that follow all channels, on a fresh database."""
        async with self.database(side) as database, self.processes(side, database, 1 + RECEIVERS) as processes:
            for receiver in processes[1:]:
                await receiver.ask(Worker.follow, recording=recording)
            yield Deployment(side, database, processes[0], processes[1:])

    @contextlib.asynccontextmanager
    async def connection(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """Connect to the database, to observe it or to interfere."""
        connection = await asyncpg.connect(self.server.url(database), command_timeout=_COMMAND_SECONDS)
        try:
            yield connection
        finally:
            connection.terminate()

    def judge(self, what: str, flow: Flow, receipts: Sequence[Receipt]) -> None:
        """Note a fault unless all was published and every receiver got it exactly once and in order."""
        for error, count in flow.errors.items():
            self.faults.append(f"{what}: {count} of {sum(flow.published.values())} publishes failed: {error}")
        for number, receipt in enumerate(receipts, 1):
            if not receipt.is_exact:
                self.faults.append(
                    f"{what}: receiver {number}: {receipt.lost} lost, {receipt.doubled} doubled, "
                    f"{receipt.disordered} out of order, of {sum(flow.published.values())}"
                )

    def server_errors(self) -> Counter[str]:
        """Return the errors that PostgreSQL logged, except those that kills and restarts cause."""
        found = _UNEXPECTED.findall(self.server.log.read_text(errors="replace"))
        return Counter(message for message in found if not _EXPECTED.match(message))

    def _take_log(self, side: sides.Name, entries: Mapping[str, tuple[int, str]]) -> None:
        for what, (count, first) in entries.items():
            self.logged[f"{side}: {what}"] += count
            self.examples.setdefault(f"{side}: {what}", first)


def make_server() -> PostgresServer:
    """Return the tests' server, with more memory."""
    SETTINGS["shared_buffers"] = SHARED_BUFFERS
    return PostgresServer()


def median(values: Sequence[float]) -> float:
    """Return the median; NaN if there are no values."""
    return statistics.median(values) if values else float("nan")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that this percentage of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def milliseconds(seconds: float) -> str:
    """Write a duration, with three digits or more."""
    value = seconds * 1000
    digits = 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004
    return f"{value:,.{digits}f} ms"
