"""A log that went back: whoever rewrites it, and however, subscribers are told, and have the log that there is then.

Each test plays one story on a channel of its own: some messages that are kept, some that are lost, and then more than
were lost. Subscribers of every form are there all the time, and others come back only after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.bus.postgres import migrate
from tests.support import backups
from tests.support.crowd import Crowd
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.readers import until
from tests.support.server import Server
from tests.support.standby import Standby
from tests.support.subscribers import V1, EventStream, LongPoll, ManyV1, Plain, Subscriber, running
from tests.support.verdict import NOTHING, Began, Got, Ledger, Missed, offset_of

CHANNELS = """\
backend: ${DATABASE_URL}
defaults: {publish: anyone, history: {size: 100000}}
channels:
  "room.{number}": {}
"""
KEPT, LOST, NEW = 5, 5, 7
"""Messages of a story: those that both logs have, those of the old one alone, and those that come then."""

PATIENCE = 15
"""Seconds that a server may need to serve a log that was rewritten."""

LOWER = """
WITH head AS (UPDATE abide.head SET head = $2 WHERE channel = $1)
DELETE FROM abide.log WHERE channel = $1 AND last > $2
"""
"""Sets a channel back to an offset, by hand."""

ROOMS = count(1)


class World:
    """A PostgreSQL, a server with two workers on a database of it, and a name for each, which may move."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._portal: BlockingPortal = stack.enter_context(start_blocking_portal())
        settings = backups.ARCHIVING | {"fsync": "off"}  # nothing here depends on what a power cut leaves
        self.postgres: PostgresServer = stack.enter_context(PostgresServer(settings=settings))
        self.database = asyncio.run(self.postgres.create_database())
        asyncio.run(migrate(self.postgres.url(self.database)))
        self._name = self._proxy(self.postgres.port)
        self.server = self.serve(self.database)
        self._front = self._proxy(self.server.port)

    @property
    def url(self) -> str:
        """Where the server is, whichever it is."""
        return f"http://127.0.0.1:{self._front.port}"

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as an operator."""
        return asyncio.run(self.postgres.execute(statement, database=self.database))

    def serve(self, database: str) -> Server:
        """Start a server on a database."""
        url = f"postgresql://postgres@127.0.0.1:{self._name.port}/{database}"
        env = {"DATABASE_URL": url, "WEB_CONCURRENCY": "2", "LOG_LEVEL": "warning"}
        return self._stack.enter_context(Server(channels=CHANNELS, env=env, ready_path="/health/ready"))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let there be no server meanwhile, and another one afterwards."""
        self.server.stop()
        yield
        self.server = self.serve(self.database)
        self._portal.call(self._front.lead_to, self.server.port)

    def move(self, postgres: PostgresServer) -> None:
        """Let the name of the database lead to another server; the one before ends."""
        self.postgres.stop("immediate")
        self.postgres = self._stack.enter_context(_already(postgres))
        self._portal.call(self._name.lead_to, postgres.port)

    def visit(self, server: Server) -> None:
        """Let the server's name lead to another one, and everybody go there."""
        self._portal.call(self._front.lead_to, server.port)
        self._portal.call(self._front.cut)

    def _proxy(self, port: int) -> FaultProxy:
        proxy = FaultProxy("127.0.0.1", port)
        return self._stack.enter_context(self._portal.wrap_async_context_manager(proxy))


@contextmanager
def _already(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Close a server that has started in the end."""
    yield postgres
    postgres.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


class Story(Crowd):
    """What happens on one channel, and who is there."""

    def __init__(self, world: World) -> None:
        super().__init__(world.url, Ledger({}))
        self.world = world
        self.channel = f"room.{next(ROOMS)}"
        forms: tuple[type[Subscriber], ...] = (V1, V1, ManyV1, EventStream, LongPoll)
        self._away = [self._subscriber(form, f"away-{number}-") for number, form in enumerate(forms)]
        self.subscribers = [
            *(self._subscriber(form, f"live-{number}-") for number, form in enumerate((*forms, Plain, EventStream))),
            *self._away,
        ]

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Tell the story; in the end everybody comes, and is judged by the log that there is then."""
        async with asyncio.timeout(3 * PATIENCE), running(self.subscribers):
            await self.opened()
            await self.publish("insist", self.channel, number=KEPT, size=10)
            await self.everybody(KEPT)
            yield
            settled = await self.settle([self.channel], seconds=PATIENCE, patience=0.5)
            held = await self.held(self.channel)
        wrong = self.faults({self.channel: held})
        wrong += [] if settled else ["not everybody had the last message in time"]
        if wrong:
            pytest.fail(self.report(self.channel, wrong, self.told_to()), pytrace=False)

    async def lose(self) -> None:
        """Publish what will be lost; then some leave."""
        await self.publish("insist", self.channel, number=LOST, size=10)
        await self.everybody(KEPT + LOST)
        for subscriber in self._away:
            subscriber.leave()

    async def overtake(self) -> None:
        """Publish more than was lost by one request, so that the new head is soon past the old one."""
        stored = self.ledger.head(self.channel)
        async with asyncio.timeout(PATIENCE):
            while self.ledger.head(self.channel) == stored:
                await self.publish("many", self.channel, number=NEW, size=10)

    async def everybody(self, offset: int) -> None:
        """Return when everybody who can come back has the acknowledged message of an offset."""
        data = self.ledger.acknowledged[self.channel][offset]
        async with asyncio.timeout(PATIENCE):
            while any(log.last != data for log in self.logs if not log.plain):  # noqa: ASYNC110 — see Crowd
                await asyncio.sleep(0.01)

    async def page(self, **query: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
        """Return a page of the channel's history."""
        async with httpx.AsyncClient() as http:
            response = await http.get(f"{self.world.url}/{self.channel}/history", params=query)
        page: dict[str, Any] = response.raise_for_status().json()
        return page

    def _subscriber(self, form: type[Subscriber], name: str) -> Subscriber:
        return form(self.world.url, self.channel, timeline=self.timeline, name=name)

    def told_to(self) -> list[str]:
        """Return what everybody was told, for a report."""
        return [f"{log}: {' '.join(map(_brief, log.told))}" for log in self.logs]

    def gaps(self) -> dict[str, list[int]]:
        """Return, for each subscriber that has positions, the offsets of the messages that came after its gaps."""
        return {
            log.subscriber: [offset_of(told.next) for told in log.told if isinstance(told, Missed)]
            for log in self.logs
            if not log.plain
        }

    def misnamed(self) -> list[str]:
        """Return the gaps whose ``next`` isn't the position of the message that came then."""
        return [
            f"{log}: {gap} before {got}"
            for log in self.logs
            for gap, got in pairwise(log.told)
            if isinstance(gap, Missed) and isinstance(got, Got) and got.position != gap.next
        ]

    def had(self, offset: int) -> str:
        """Return the position of the old log with an offset."""
        return next(
            told.position
            for log in self.logs
            for told in log.told
            if isinstance(told, Got) and told.position is not None and offset_of(told.position) == offset
        )


def _brief(told: object) -> str:
    match told:
        case Got(position, data):
            return f"{position and position[:4]}:{position and offset_of(position)}={data.split()[0]}"
        case Missed(after, following, reason):
            return f"[gap {after[:4]}:{offset_of(after)} {following[:4]}:{offset_of(following)} {reason}]"
        case Began(position, _, resumed):
            return f"[began {position[:4]}:{offset_of(position)} {'resumed' if resumed else ''}]"
        case _:
            return f"[{type(told).__name__}]"


Step = Callable[[World], Any]


async def rewrite(world: World, *, prepare: Step, lose: Callable[[World, Any], None], fork: int = KEPT) -> Story:
    """Play a story in which the log is rewritten while the server runs."""
    story = Story(world)
    async with story.told():
        saved = story.ledger.save() if fork else NOTHING
        prepared = await anyio.to_thread.run_sync(prepare, world)
        await story.lose()
        with story.rewriting(saved):
            await anyio.to_thread.run_sync(lose, world, prepared)
        await story.overtake()
    assert set(map(tuple, story.gaps().values())) == {(fork + 1,)}, story.told_to()
    assert story.misnamed() == []
    lost = await story.page(since=story.had(KEPT + LOST))
    assert (lost["complete"], lost["messages"][0]["offset"]) == (False, fork + 1)
    if fork:
        assert (await story.page(since=story.had(fork)))["complete"]
    return story


def nothing(world: World) -> None:
    """Prepare nothing."""


def dump(world: World) -> Path:
    return backups.dump(world.postgres, world.database)


def restore(world: World, path: Path) -> None:
    backups.restore(world.postgres, world.database, path, clean=True)


def swap(world: World, path: Path) -> None:
    backups.swap(world.postgres, world.database, path)


def save(world: World) -> Path:
    return backups.save(world.postgres)


def put_back(world: World, path: Path) -> None:
    backups.put_back(world.postgres, path)


def base_and_mark(world: World) -> tuple[Path, str]:
    return backups.take_base(world.postgres), backups.mark(world.postgres)


def recover(world: World, base_and_point: tuple[Path, str]) -> None:
    backups.recover(world.postgres, *base_and_point)


def lag(world: World) -> Standby:
    standby = Standby(world.postgres)
    standby.start()
    standby.catch_up()
    standby.fall_behind()
    return standby


def fail_over(world: World, standby: Standby) -> None:
    standby.promote()
    world.move(standby)


def truncate(world: World, _: None) -> None:
    world.sql("TRUNCATE abide.head, abide.log, abide.key")


def delete(world: World, _: None) -> None:
    world.sql("WITH head AS (DELETE FROM abide.head), key AS (DELETE FROM abide.key) DELETE FROM abide.log")


def start_again(world: World, path: Path) -> None:
    with world.stopped():
        restore(world, path)


@pytest.mark.parametrize(
    ("prepare", "lose", "fork"),
    [
        pytest.param(dump, restore, KEPT, id="a dump restored over it"),
        pytest.param(dump, start_again, KEPT, id="a dump restored while the server is stopped"),
        pytest.param(dump, swap, KEPT, id="a restored database that takes its name"),
        pytest.param(save, put_back, KEPT, id="a data folder put back"),
        pytest.param(base_and_mark, recover, KEPT, id="a recovery to a point in time"),
        pytest.param(lag, fail_over, KEPT, id="a standby that lags and is promoted"),
        pytest.param(nothing, truncate, 0, id="TRUNCATE"),
        pytest.param(nothing, delete, 0, id="DELETE"),
    ],
)
def test_a_log_that_went_back_is_told(
    world: World, prepare: Step, lose: Callable[[World, Any], None], fork: int
) -> None:
    """Subscribers, those who were there and those who come back, are told of one gap and then have the new log."""
    asyncio.run(rewrite(world, prepare=prepare, lose=lose, fork=fork))


@pytest.mark.parametrize("statement", ["TRUNCATE abide.head", "DELETE FROM abide.head"])
def test_a_log_whose_heads_are_gone_goes_on(world: World, statement: str) -> None:
    """Subscribers of a channel whose head was taken away, but not its messages, miss nothing of what comes then."""

    async def play() -> None:
        story = Story(world)
        async with story.told():
            await story.lose()
            with story.rewriting(NOTHING):
                await anyio.to_thread.run_sync(world.sql, statement)
            await story.overtake()

    asyncio.run(play())


def test_heads_that_are_lowered_by_hand_are_told(world: World) -> None:
    """Subscribers of a channel that somebody set back are told, also when it is soon past its old head."""

    async def play() -> None:
        story = Story(world)
        async with story.told():
            saved = story.ledger.save()
            await story.lose()
            with story.rewriting(saved):
                await world.postgres.execute(LOWER, story.channel, KEPT, database=world.database)
            await story.overtake()
        assert set(map(tuple, story.gaps().values())) == {(KEPT + 1,)}, story.told_to()

    asyncio.run(play())


def test_messages_that_are_gone_have_expired(world: World) -> None:
    """Subscribers who had all of a log that was emptied go on, and who was behind is told that the rest has expired."""

    async def play() -> None:
        story = Story(world)
        async with story.told():
            behind = story.had(KEPT)
            await story.lose()
            with story.rewriting(NOTHING):
                await anyio.to_thread.run_sync(world.sql, "TRUNCATE abide.log")
            await story.overtake()
        assert set(map(tuple, story.gaps().values())) == {()}, story.told_to()
        page = await story.page(since=behind)
        assert (page["complete"], page["messages"][0]["offset"]) == (False, KEPT + LOST + 1)

    asyncio.run(play())


def test_a_schema_that_is_dropped_and_restored_under_the_server_is_served_again(world: World) -> None:
    """Server never makes a schema where a log was: the restore meets no error, and everybody is told what it lost."""

    async def play() -> None:
        story = Story(world)
        async with story.told():
            saved = story.ledger.save()
            path = await anyio.to_thread.run_sync(partial(backups.dump, world.postgres, world.database, form="plain"))
            await story.lose()
            with story.rewriting(saved):
                await anyio.to_thread.run_sync(backups.drop, world.postgres, world.database)
                with suppress(TimeoutError):  # somebody publishes all the time, and the listener looks for its tables
                    async with asyncio.timeout(3):
                        await story.publish("insist", story.channel, number=1, size=10)
                assert not await is_ready(world)
                errors = await anyio.to_thread.run_sync(backups.psql, world.postgres, world.database, path)
            await story.overtake()
        assert errors == []
        assert set(map(tuple, story.gaps().values())) == {(KEPT + 1,)}, story.told_to()
        await until(partial(is_ready, world), "ready again", seconds=8)

    asyncio.run(play())


async def is_ready(world: World) -> bool:
    """Ask whether the server is ready."""
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{world.url}/health/ready")).status_code == httpx.codes.OK


def test_a_copy_that_is_served_beside_the_original_is_another_log(world: World) -> None:
    """Subscribers who go from a database to a copy of it, and back, are told each time of what isn't there."""

    async def play() -> None:
        story = Story(world)
        async with story.told():
            saved = story.ledger.save()
            copy = await world.postgres.create_database()
            path = await anyio.to_thread.run_sync(dump, world)
            await anyio.to_thread.run_sync(backups.restore, world.postgres, copy, path)
            await story.lose()
            original = story.ledger.save()
            other = await anyio.to_thread.run_sync(world.serve, copy)
            with story.rewriting(saved):
                world.visit(other)
            await story.overtake()
            for subscriber in story.subscribers:
                subscriber.come()
            await story.everybody(story.ledger.head(story.channel))
            with story.rewriting(original):
                world.visit(world.server)
        assert set(map(tuple, story.gaps().values())) == {(KEPT + 1, KEPT + 1)}, story.told_to()
        await anyio.to_thread.run_sync(other.stop)

    asyncio.run(play())


def restart(world: World) -> None:
    world.postgres.restart("fast")


def crash(world: World) -> None:
    world.postgres.crash()
    world.postgres.start()


def switch_over(world: World) -> None:
    standby = Standby(world.postgres)
    standby.start()
    world.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    world.sql("SELECT pg_reload_conf()")
    standby.catch_up()
    standby.promote()
    asyncio.run(standby.execute("ALTER SYSTEM RESET default_transaction_read_only"))
    asyncio.run(standby.execute("SELECT pg_reload_conf()"))
    world.move(standby)


def start_the_server_again(world: World) -> None:
    with world.stopped():
        pass


def test_who_lost_nothing_is_told_of_no_gap(world: World) -> None:
    """Subscribers resume without a gap after restarts and crashes of everything, and a switch that lost nothing."""

    async def play() -> None:
        story = Story(world)
        async with story.told():
            await story.lose()
            for happen in (restart, crash, start_the_server_again, switch_over):
                await anyio.to_thread.run_sync(happen, world)
                await story.overtake()
        assert set(map(tuple, story.gaps().values())) == {()}, story.told_to()
        assert len(await story.held(story.channel)) >= KEPT + LOST + 4 * NEW

    asyncio.run(play())
