"""Runs under load: workers in this process, readers that keep all they are handed, and a ledger that judges them.

A load test says what it published and what it was answered; :meth:`Ledger.check` then compares every reader's log with
that: each acknowledged message exactly once and at its offset, each doubtful one at most once, nothing else, no hole.
"""

import asyncio
import contextlib
import inspect
import json
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import asyncpg

from app.bus.backend import Backend
from app.bus.bus import Bus
from app.bus.postgres import PostgresBackend
from app.core.channel import HistoryWindow
from app.core.errors import OutcomeUnknownError, UnavailableError
from app.core.message import Batch, EpochChange, Position, Published, Record
from app.core.ports import Outcome

SECONDS = 20.0
"""The longest that a condition is waited for."""

_POLL_SECONDS = 0.01
"""Between two looks at a condition: many tests wait for many at once."""

ALL = HistoryWindow(size=1_000_000, ttl=86_400)


async def until(condition: Callable[[], object | Awaitable[object]], what: str, *, seconds: float = SECONDS) -> None:
    """Return when ``condition``, or what it awaits, holds: for things that can only be asked.

    Raises an AssertionError that says ``what`` did not come true.
    """
    deadline = time.monotonic() + seconds
    while True:
        held = condition()
        if inspect.isawaitable(held):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(_POLL_SECONDS)


async def healthy(backend: Backend, *, ok: bool = True, seconds: float = SECONDS) -> str:
    """Return the detail of the backend's health once it is good (or bad)."""

    async def turned() -> bool:
        return (await backend.health()).ok is ok

    await until(turned, f"health {'good' if ok else 'bad'} of {backend!r}", seconds=seconds)
    return (await backend.health()).detail


async def says(backend: Backend, text: str, *, seconds: float = SECONDS) -> str:
    """Return the detail of the backend's health once it is bad and holds ``text``."""

    async def said() -> bool:
        health = await backend.health()
        return not health.ok and text in health.detail

    await until(said, f"health of {backend!r} says {text!r}", seconds=seconds)
    return (await backend.health()).detail


@dataclass
class Reader:
    """A sink: one channel's messages as one worker is handed them."""

    name: str
    channel: str
    begin: Position = field(default_factory=lambda: Position("", 0))
    log: list[bytes] = field(default_factory=list)
    """The data of the messages past ``begin``, in the order of their offsets."""
    faults: list[str] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)
    """Where it was when the log began another epoch, and after which offset that goes on."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last(self) -> int:
        """Offset of the last message."""
        return self.begin.offset + len(self.log)

    def start(self, position: Position) -> None:
        """Begin after ``position``."""
        self.begin = position

    def deliver(self, batch: Batch) -> None:
        """Keep the messages, and note where they are not the next ones."""
        offsets = [message.offset for message in batch.messages]
        expected = list(range(self.last + 1, self.last + 1 + len(offsets)))
        if offsets != expected or batch.channel != self.channel:
            self.faults.append(f"{self.name}: handed {batch.channel} {offsets[:5]}…, expected {expected[:5]}…")
        self.log += [message.data for message in batch.messages]
        self._news.set()

    def change_epoch(self, change: EpochChange) -> None:
        """Take back what is not in the log any more."""
        self.turns.append((self.last, change.offset))
        if change.offset < self.last:
            del self.log[max(0, change.offset - self.begin.offset) :]
            self.begin = Position(self.begin.epoch, min(self.begin.offset, change.offset))

    def lose(self) -> None:
        """Only the protocol: nothing here is live only."""

    def failed(self) -> None:
        """Only the protocol: to take a batch cannot fail."""

    async def until(self, count: int, *, seconds: float = SECONDS) -> list[bytes]:
        """Return the log when it holds ``count`` messages."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.log) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            msg = f"{self.name} has {len(self.log)} of {count} messages of {self.channel} after {seconds} s"
            raise AssertionError(msg) from None
        return self.log


@dataclass
class Worker:
    """What a worker process has, without the web."""

    name: str
    backend: Backend
    bus: Bus
    readers: list[Reader] = field(default_factory=list)

    async def follow(self, *channels: str) -> list[Reader]:
        """Read the channels from now on."""
        readers = [Reader(f"{self.name}/{channel}", channel) for channel in channels]
        for reader in readers:
            await self.bus.follow(reader.channel, reader)
        self.readers += readers
        return readers

    async def publish(self, channel: str, *texts: str, key: str | None = None) -> list[Outcome]:
        """Publish some texts."""
        return await self.bus.publish([Record(channel, text.encode(), key) for text in texts])


@contextlib.asynccontextmanager
async def worker(
    url: str, *, name: str = "worker", direct_url: str | None = None, inline: bool = True, ready: bool = True
) -> AsyncIterator[Worker]:
    """Run a worker on a database; with ``ready``, begin when it is healthy."""
    backend = PostgresBackend(url, direct_url=direct_url, retention=lambda _: ALL, inline=inline)
    async with worker_of(backend, name=name, ready=ready) as made:
        yield made


@contextlib.asynccontextmanager
async def worker_of(backend: Backend, *, name: str = "worker", ready: bool = True) -> AsyncIterator[Worker]:
    """Run a worker on a backend of any engine."""
    bus = Bus(backend)
    async with bus.running():
        if ready:
            await healthy(backend)
        yield Worker(name, backend, bus)


@contextlib.asynccontextmanager
async def workers(url: str, count: int, *, direct_url: str | None = None) -> AsyncIterator[list[Worker]]:
    """Run several workers on one database."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(worker(url, name=f"w{number}", direct_url=direct_url))
            for number in range(count)
        ]


class Ledger:
    """What was published in a run and what became of it. All that is random comes from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 — a test that can be repeated, not a secret
        self.replayed = 0
        self.refused = 0
        self.doubtful: dict[str, Counter[bytes]] = defaultdict(Counter)
        """Outcome unknown: stored once or not at all."""
        self.acknowledged: dict[str, dict[int, bytes]] = defaultdict(dict)
        self.committed: dict[str, Counter[bytes]] = defaultdict(Counter)
        """Published from SQL in transactions that committed: stored once, somewhere."""
        self._serial = 0
        self._began = time.monotonic()
        self._timeline: deque[str] = deque(maxlen=30)

    def note(self, text: str) -> None:
        """Write into the timeline."""
        self._timeline.append(f"{time.monotonic() - self._began:7.3f} {text}")

    def data(self, size: int) -> bytes:
        """Make a JSON text of about so many bytes that no other message has; of up to 8 there are others."""
        self._serial += 1
        return (str(self._serial % 10) if size <= 8 else json.dumps(f"{self._serial} ".ljust(size - 2, "."))).encode()

    async def publish(self, worker: Worker, records: Sequence[Record]) -> list[Outcome]:
        """Publish and write down the outcomes."""
        outcomes = await worker.bus.publish(records)
        for record, outcome in zip(records, outcomes, strict=True):
            self.answer(record, outcome)
        return outcomes

    async def insist(self, worker: Worker, record: Record) -> Published:
        """Publish a message with a key again and again until it is acknowledged."""
        while True:
            (outcome,) = await worker.bus.publish([record])
            if isinstance(outcome, Published):
                self.answer(record, outcome)
                return outcome
            assert isinstance(outcome, UnavailableError), repr(outcome)
            self.note(f"again: {outcome!r}")
            await asyncio.sleep(0.02)

    def answer(self, record: Record, outcome: Outcome) -> None:
        """Write down one outcome."""
        match outcome:
            case Published(position, replayed):
                before = self.acknowledged[record.channel].setdefault(position.offset, record.data)
                assert before == record.data, self._report([f"{position} was given to two messages"])
                self.replayed += replayed
            case OutcomeUnknownError():
                self.note(f"outcome unknown in {record.channel}")
                self.doubtful[record.channel][record.data] += 1
            case UnavailableError():
                self.note(f"refused in {record.channel}: {outcome}")
                self.refused += 1
            case _:
                raise outcome

    async def check(self, database_url: str, readers: Iterable[Reader]) -> None:
        """Wait until the outbox is empty and every reader at its head; then judge all they were handed."""
        readers = list(readers)
        heads: dict[str | None, int] = {}

        async def settled() -> bool:
            rows = await connection.fetch(
                "SELECT channel, head FROM abide.head UNION ALL SELECT NULL, count(*) FROM abide.outbox"
            )
            heads.update((row[0], row[1]) for row in rows)
            return heads[None] == 0 and all(reader.last >= heads.get(reader.channel, 0) for reader in readers)

        connection = await asyncpg.connect(database_url)
        try:
            with contextlib.suppress(AssertionError):  # what is missing is told below, in full
                await until(settled, "the outbox is empty and every reader at its head")
        finally:
            connection.terminate()
        self.judge(readers, heads, [f"{heads[None]} messages still lie in the outbox"] if heads[None] else [])

    async def check_log(self, backend: Backend, readers: Sequence[Reader]) -> None:
        """Wait until every reader is at its head, as ``backend`` reads it; then judge all they were handed."""
        heads: dict[str | None, int] = {}

        async def settled() -> bool:
            heads.update({reader.channel: await backend.head(reader.channel) for reader in readers})
            return all(reader.last >= heads[reader.channel] for reader in readers)

        with contextlib.suppress(AssertionError):  # as above
            await until(settled, "every reader is at its head")
        self.judge(readers, heads)

    def judge(self, readers: Iterable[Reader], heads: dict[str | None, int], faults: Sequence[str] = ()) -> None:
        """Judge all that readers were handed; ``faults`` are known already."""
        found = [*faults, *(fault for reader in readers for fault in reader.faults)]
        for reader in readers:
            if reader.last != heads.get(reader.channel, 0):
                found.append(f"{reader.name} is at {reader.last}, the head at {heads.get(reader.channel, 0)}")
            found += self._judge(reader)
        assert not found, self._report(found)

    def _judge(self, reader: Reader) -> list[str]:
        acknowledged = self.acknowledged[reader.channel]
        log = dict(enumerate(reader.log, reader.begin.offset + 1))
        others = Counter(data for offset, data in log.items() if offset not in acknowledged)
        committed, doubtful = self.committed[reader.channel], self.doubtful[reader.channel]
        return [
            f"{reader.name}: {what}"
            for what in (
                *(
                    f"offset {offset} is {_short(log.get(offset))}, acknowledged was {_short(data)}"
                    for offset, data in acknowledged.items()
                    if offset > reader.begin.offset and log.get(offset) != data
                ),
                *(f"{_short(data)} is missing {n} times" for data, n in (committed - others).items()),
                *(
                    f"{_short(data)} is there {n} times too often"
                    for data, n in (others - committed - doubtful).items()
                ),
            )
        ]

    def _report(self, faults: list[str]) -> str:
        more = f"\n… and {len(faults) - 10} more" if len(faults) > 10 else ""
        return f"seed {self.seed}\n" + "\n".join(faults[:10]) + more + "\ntimeline:\n" + "\n".join(self._timeline)


def _short(data: bytes | None) -> str:
    return "missing" if data is None else f"{data[:24]!r} ({len(data)} B)"


async def kill(connection: asyncpg.Connection, *names: str) -> int:
    """Terminate all connections of this database that call themselves one of ``names``; return how many."""
    killed: int = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = ANY ($1::text[])",
        list(names),
    )
    return killed
