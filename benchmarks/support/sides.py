"""The two sides that are compared, behind one interface."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Literal, Protocol
from urllib.parse import quote

from broadcaster import Broadcast
from broadcaster._backends.postgres import PostgresBackend

from app.bus import postgres
from app.bus.bus import Bus
from app.core.channel import HistoryWindow
from app.core.errors import AbideError, UnavailableError
from app.core.message import Batch, EpochChange, Position, Record
from benchmarks.support.messages import Ledger
from benchmarks.support.waiting import until

Name = Literal["stock", "bare stock", "storing stock", "abide"]
"""``bare stock`` goes without our lock, to show what happens then; ``storing stock`` is :class:`_Storing`."""

STOCK_APPLICATION = "stock bus"
"""The application_name of stock's connections; ours name themselves."""

_CONNECT_SECONDS = 20.0


class Side(Protocol):
    """A connected bus."""

    async def publish(self, channel: str, data: str, key: str | None = None) -> None:
        """Publish; raise when it is not known to be stored (ours) or sent (stock)."""

    async def follow(self, channel: str, ledger: Ledger) -> None:
        """Enter messages published from now on into the ledger."""


class Stock:
    """Unchanged broadcaster with a lock, because its one connection refuses a second publish while one runs."""

    def __init__(
        self,
        broadcast: Broadcast,
        stack: contextlib.AsyncExitStack,
        turn: contextlib.AbstractAsyncContextManager[None],
    ) -> None:
        self._broadcast = broadcast
        self._stack = stack
        self._turn = turn

    async def publish(self, channel: str, data: str, key: str | None = None) -> None:  # noqa: ARG002 — it has none
        """Take the lock and NOTIFY."""
        async with self._turn:
            await self._broadcast.publish(channel, data)

    async def follow(self, channel: str, ledger: Ledger) -> None:
        """Subscribe, and read events in a task."""
        subscriber = await self._stack.enter_async_context(self._broadcast.subscribe(channel))

        async def read() -> None:
            while True:
                event = await subscriber.get()
                ledger.arrived = time.monotonic()
                ledger.take(channel, event.message)

        reader = asyncio.create_task(read(), name=f"read {channel}")
        self._stack.push_async_callback(_cancel, reader)


class _Storing(PostgresBackend):
    """Stock with an INSERT of the message into a table beside its NOTIFY: the least that durability costs."""

    async def connect(self) -> None:
        await super().connect()
        async with self._conn.transaction():
            await self._conn.execute("SELECT pg_advisory_xact_lock(1)")  # every process comes here
            await self._conn.execute("CREATE TABLE IF NOT EXISTS stored (id bigserial PRIMARY KEY, message text)")

    async def publish(self, channel: str, message: str) -> None:
        await self._conn.execute(
            "WITH stored AS (INSERT INTO stored (message) VALUES ($2)) SELECT pg_notify($1, $2)", channel, message
        )


class Abide:
    """Our bus over PostgreSQL, as a worker process has it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, channel: str, data: str, key: str | None = None) -> None:
        """Publish one record, as a push does."""
        [outcome] = await self._bus.publish([Record(channel, data.encode(), key)])
        if isinstance(outcome, AbideError):
            raise outcome

    async def follow(self, channel: str, ledger: Ledger) -> None:
        """Put a sink where a worker has its tail."""
        await self._bus.follow(channel, _Sink(channel, ledger))


class _Sink:
    def __init__(self, channel: str, ledger: Ledger) -> None:
        self._channel = channel
        self._ledger = ledger

    def start(self, position: Position) -> None:
        """Begin after the existing messages."""
        self._ledger.last[self._channel] = position.offset

    def deliver(self, batch: Batch) -> None:
        """Enter every message."""
        self._ledger.arrived = time.monotonic()
        for message in batch.messages:
            self._ledger.take(self._channel, message.data, message.offset)

    def change_epoch(self, change: EpochChange) -> None:
        """Do nothing: the log is never rewritten here."""

    def lose(self) -> None:
        """Only the protocol: nothing here is live only."""

    def failed(self) -> None:
        """Do nothing: the ledger finds missing messages at the end."""


@contextlib.asynccontextmanager
async def connect(name: Name, url: str) -> AsyncIterator[Side]:
    """Connect one side to the database, and disconnect at the end."""
    match name:
        case "stock":
            connecting = _stock(url, asyncio.Lock())
        case "bare stock":
            connecting = _stock(url, contextlib.nullcontext())
        case "storing stock":
            connecting = _stock(url, asyncio.Lock(), _Storing)
        case "abide":
            connecting = _abide(url)
    async with connecting as side:
        yield side


@contextlib.asynccontextmanager
async def _stock(
    url: str, turn: contextlib.AbstractAsyncContextManager[None], backend: type[PostgresBackend] = PostgresBackend
) -> AsyncIterator[Side]:
    async with contextlib.AsyncExitStack() as stack:
        named = f"{url}?application_name={quote(STOCK_APPLICATION)}"
        yield Stock(await stack.enter_async_context(Broadcast(backend=backend(named))), stack, turn)


@contextlib.asynccontextmanager
async def _abide(url: str) -> AsyncIterator[Side]:
    bus = Bus(postgres.PostgresBackend(url, retention=lambda _: HistoryWindow()))

    async def is_connected() -> bool:
        return (await bus.health()).ok

    async with bus.running():
        if not await until(is_connected, seconds=_CONNECT_SECONDS):
            raise UnavailableError((await bus.health()).detail)
        yield Abide(bus)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
