"""Any schedule of append, lose, append, resume, on several workers: what is lost is told, and what is there comes.

A schedule comes from a seed, which a failure prints. Losing is what a restored dump does: the tables have older rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from app.core.channel import Channel, HistoryWindow, Registry
from app.core.delivery.encodings import V1_TEXTS
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, UnavailableError
from app.core.message import Position, Published, Record
from app.core.resume import Gap, Start
from app.core.rights.policy import ANONYMOUS
from tests.support import rewritten
from tests.support.readers import ALL, Worker, until, workers
from tests.support.verdict import NOTHING, Ledger, Log, Saved
from tests.support.writers import Stalling, frames

WORKERS = 2
READERS = 6
STEPS = 60
SEEDS = range(1, 9)
ACTIONS = {"publish": 10, "save": 3, "lose": 3, "leave": 4, "come": 6, "stall": 2, "flow": 3, "turns": 6}
TABLES = ("head", "log", "key", "installation")


class Reader(Stalling):
    """A subscriber that writes down all it is told, and comes back where it was, on any worker."""

    def __init__(self, number: int, channel: str) -> None:
        super().__init__()
        self.log = Log(f"reader {number}", channel)

    async def come(self, hub: Hub) -> None:
        if self.subscription is not None:
            return
        since = Position.parse(self.log.position) if self.log.position else None
        start = Start(since=since, given=self.log.position) if since else Start(earliest=True)
        try:
            subscription, where = await hub.subscribe(self.log.channel, ANONYMOUS, V1_TEXTS, start)
        except UnavailableError:  # it comes another time
            return
        self.subscribed(hub, subscription)
        self.log.began(str(subscription.position), resumed=where.resumed)
        if where.gap is not None:
            self.lost(subscription, where.gap)
        subscription.attach(self, self)

    def leave(self) -> None:
        if self.subscription is not None:
            super().leave()
            self.log.cut()

    def write(self, data: bytes) -> None:
        for message in frames(data):
            self.log.got(message["position"], message["data"])

    def lost(self, _: Subscription, gap: Gap) -> None:
        self.log.missed(str(gap.after), str(gap.next), gap.reason)

    def ended(self, _: Subscription, error: AbideError) -> None:
        assert isinstance(error, UnavailableError), repr(error)
        self.leave()


class Run:
    """One schedule, on a channel of its own."""

    def __init__(self, seed: int, its_workers: Sequence[Worker], sql: asyncpg.Connection) -> None:
        self.channel = f"c{seed}"
        self._chance = random.Random(seed)  # noqa: S311 — a test that can be repeated, not a secret
        self._sql = sql
        self._workers = its_workers
        registry = Registry((Channel(self.channel, history=ALL),), Channel(""))
        self._hubs = [
            Hub(worker.bus, registry, tail_bytes=self._chance.choice((2000, 2**20))) for worker in its_workers
        ]
        self._readers = [Reader(number, self.channel) for number in range(READERS)]
        self._ledger = Ledger({})
        self._saved: list[tuple[str, Saved]] = []
        self._serial = itertools.count(1)

    async def play(self) -> list[str]:
        """Play it; return what happened, and what is wrong."""
        happened = []
        for _ in range(STEPS):
            action = self._chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            happened.append(action)
            await self._do(action)
        await self._finish()
        held = await self._held()
        wrong = rewritten.faults(self._ledger, [reader.log for reader in self._readers], {self.channel: held})
        return [*wrong, *([" ".join(happened), *map(_told, self._readers)] if wrong else [])]

    async def _do(self, action: str) -> None:
        reader = self._chance.choice(self._readers)
        match action:
            case "publish":
                await self._publish(self._chance.randint(1, 12))
            case "save":
                await self._save()
            case "lose":
                await self._lose()
            case "come":
                await reader.come(self._chance.choice(self._hubs))
            case "turns":
                await asyncio.sleep(self._chance.choice((0, 0.002, 0.02)))
            case _:
                getattr(reader, action)()

    async def _publish(self, count: int) -> None:
        datas = [f"{next(self._serial)}" for _ in range(count)]
        life = self._ledger.life
        for data in datas:
            self._ledger.doubt(self.channel, data)
        bus = self._chance.choice(self._workers).bus
        outcomes = await bus.publish([Record(self.channel, json.dumps(data).encode()) for data in datas])
        for data, outcome in zip(datas, outcomes, strict=True):
            if isinstance(outcome, Published):
                self._ledger.acknowledge(self.channel, str(outcome.position), data, life)

    async def _save(self) -> None:
        name = f"saved_{self.channel}_{len(self._saved)}"
        self._saved.append((name, self._ledger.save()))
        copies = "; ".join(f"CREATE TABLE {name}.{table} AS TABLE abide.{table}" for table in TABLES)
        await self._sql.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE SCHEMA {name}; {copies}; COMMIT")

    async def _lose(self) -> None:
        """Put back what was saved last, or before, as a dump that is restored; or let nothing be there."""
        lose = ["TRUNCATE abide.head, abide.log, abide.key"]
        saved = NOTHING
        if self._saved and self._chance.random() < 0.8:
            name, saved = self._chance.choice(self._saved[-2:])
            lose += ["DELETE FROM abide.installation", *(f"INSERT INTO abide.{it} TABLE {name}.{it}" for it in TABLES)]
        for reader in self._readers:
            reader.log.rewritten()
        with self._ledger.rewriting(saved):
            while not await self._win(lose):
                pass

    async def _win(self, statements: Sequence[str]) -> bool:
        """Run statements in a transaction; False if somebody who works with the tables came first."""
        try:
            async with self._sql.transaction():
                await self._sql.execute("; ".join(statements))
        except asyncpg.DeadlockDetectedError:
            return False
        return True

    async def _finish(self) -> None:
        """Let everybody come and reach the end."""
        last = self._ledger.head(self.channel)
        while self._ledger.head(self.channel) == last:
            await self._publish(1)
        end = self._ledger.acknowledged[self.channel][self._ledger.head(self.channel)]

        async def reached() -> bool:
            for reader in self._readers:
                await reader.come(self._chance.choice(self._hubs))
                reader.flow()
            return all(reader.log.last == end for reader in self._readers)

        with contextlib.suppress(AssertionError):  # the verdict tells what is missing
            await until(reached, "everybody is at the end", seconds=10)
        for reader in self._readers:
            reader.leave()

    async def _held(self) -> dict[int, str]:
        held: dict[int, str] = {}
        while True:
            page = await self._workers[0].bus.read(self.channel, max(held, default=0), 1000, HistoryWindow(size=10**6))
            held |= {message.offset: json.loads(message.data) for message in page.messages}
            if not page.messages:
                return held


def _told(reader: Reader) -> str:
    return f"{reader.log}: {' '.join(map(str, reader.log.told))}"


@pytest.fixture
async def two(url: str) -> AsyncIterator[list[Worker]]:
    async with workers(url, WORKERS) as both:
        yield both


async def test_a_reader_of_a_rewritten_log_has_the_present_one_or_was_told(
    two: list[Worker], sql: asyncpg.Connection
) -> None:
    """Readers that come, stall and leave have, after any losses, the log that there is but for what a gap took back."""
    for seed in SEEDS:
        wrong = await Run(seed, two, sql).play()
        assert not wrong, f"seed {seed}\n" + "\n".join(wrong)
