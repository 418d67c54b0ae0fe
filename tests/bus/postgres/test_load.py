"""Many publishers, over HTTP's way and from SQL, while connections are killed: nothing lost, nothing twice."""

import asyncio
import time

import asyncpg
import pytest

from app.core.message import Published, Record
from tests.support.readers import Ledger, Worker, kill, until, workers

pytestmark = pytest.mark.usefixtures("unretrieved")

CHANNELS = [f"c{number}" for number in range(10)]
SIZES = [1, 8, 40, 200, 900, 4000, 7590, 7601, 12_000, 61_000, 300_000]
WEIGHTS = [9, 9, 30, 30, 20, 8, 3, 3, 3, 2, 1]


async def test_workers_deliver_to_each_other_in_one_order(url: str) -> None:
    """Workers deliver to each other what their publishers publish at once, of every size, in one order."""
    ledger = Ledger(11)

    async def publish(worker: Worker) -> None:
        for _ in range(12):
            sizes = ledger.random.choices(SIZES, WEIGHTS, k=ledger.random.choice([1, 1, 1, 7]))
            records = [Record(ledger.random.choice(CHANNELS), ledger.data(size)) for size in sizes]
            assert all(isinstance(outcome, Published) for outcome in await ledger.publish(worker, records))

    async with workers(url, 3) as all_three:
        readers = [reader for it in all_three for reader in await it.follow(*CHANNELS)]
        async with asyncio.TaskGroup() as group:
            for it in all_three:
                for _ in range(30):
                    group.create_task(publish(it))
        await ledger.check(url, readers)
    assert sum(len(log) for log in ledger.acknowledged.values()) > 1500


async def test_a_key_that_races_across_workers_is_stored_once(url: str, sql: asyncpg.Connection) -> None:
    """Key that several workers publish at once is stored once: one of them is told so, the others of a replay."""
    ledger = Ledger(12)
    channels = CHANNELS[:3]
    async with workers(url, 3) as all_three:
        readers = [reader for it in all_three for reader in await it.follow(*channels)]
        for number in range(60):
            keyed = Record(ledger.random.choice(channels), ledger.data(ledger.random.choice([40, 9000])), f"k{number}")
            others = [Record(ledger.random.choice(channels), ledger.data(40)) for _ in range(6)]
            batches = [[keyed, other] for other in others]
            answers = await asyncio.gather(
                *(ledger.publish(all_three[index % 3], batch) for index, batch in enumerate(batches))
            )
            outcomes = [answer[0] for answer in answers]
            assert all(isinstance(outcome, Published) for outcome in outcomes)
            assert len({outcome.position for outcome in outcomes if isinstance(outcome, Published)}) == 1
            replays = sorted(outcome.replayed for outcome in outcomes if isinstance(outcome, Published))
            assert replays == [False, True, True, True, True, True]
        await ledger.check(url, readers)
    assert await sql.fetchval("SELECT sum(head) FROM abide.head") == 60 + 360


async def test_transactions_are_delivered_exactly_if_they_commit(url: str) -> None:
    """Transactions that publish are delivered if and only if they commit, each session's in its order."""
    ledger = Ledger(21)
    channels = CHANNELS[:4]
    commits = 0

    async def session(number: int) -> None:
        nonlocal commits
        connection = await asyncpg.connect(url)
        serial = 0
        while time.monotonic() < deadline or commits <= 200:
            transaction = connection.transaction()
            await transaction.start()
            published = []
            for channel in ledger.random.choices(channels, k=ledger.random.randint(1, 3)):
                size = 9000 if ledger.random.random() < 0.05 else ledger.random.choice([20, 300])
                serial += 1
                text = f"{number} {serial} ".ljust(size, ".")
                await connection.execute("SELECT abide.publish($1, to_jsonb($2::text))", channel, text)
                published.append((channel, f'"{text}"'.encode()))
            if ledger.random.random() < 0.5:
                await asyncio.sleep(ledger.random.uniform(0, 0.01))
            if ledger.random.random() < 0.2:
                await transaction.rollback()
                continue
            await transaction.commit()
            commits += 1
            for channel, data in published:
                ledger.committed[channel][data] += 1
        connection.terminate()

    async with workers(url, 3) as all_three:
        readers = [reader for it in all_three for reader in await it.follow(*channels)]
        killer = asyncio.create_task(keep_killing(url, ledger, "abide listen", "abide read"))
        deadline = time.monotonic() + 4
        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(session(number))
        killer.cancel()
        await ledger.check(url, readers)
    for reader in readers:
        marks = [tuple(map(int, data[1:40].split()[:2])) for data in reader.log]
        for number in range(16):
            mine = [serial for session_number, serial in marks if session_number == number]
            assert mine == sorted(mine), f"session {number} is out of order at {reader.name}"


async def test_a_key_that_races_in_sql_is_stored_once(url: str, sql: asyncpg.Connection) -> None:
    """Key published from SQL several times at once, and by workers too, is stored once for either of them."""
    ledger = Ledger(22)

    async def from_sql(connection: asyncpg.Connection, text: str, key: str) -> None:
        await connection.execute("SELECT abide.publish('a', to_jsonb($1::text), $2)", text, key)

    async with workers(url, 2) as both:
        readers = [reader for it in both for reader in await it.follow("a")]
        other = await asyncpg.connect(url)
        for number in range(60):
            text, key = f"message {number}", f"k{number}"
            record = Record("a", f'"pushed {number}"'.encode(), key)
            await asyncio.gather(
                from_sql(sql, text, key), from_sql(other, text, key), *(ledger.publish(it, [record]) for it in both)
            )
            ledger.committed["a"][f'"{text}"'.encode()] += 1
        for number in range(60, 70):  # and alone, repeated within a transaction
            async with other.transaction():
                for _ in range(3):
                    await from_sql(other, f"message {number}", f"k{number}")
            ledger.committed["a"][f'"message {number}"'.encode()] += 1
        await ledger.check(url, readers)
        other.terminate()
    assert await sql.fetchval("SELECT head FROM abide.head") == 130


async def keep_killing(url: str, ledger: Ledger, *names: str, every: float = 0.5) -> int:
    """Terminate the workers' connections of these names again and again."""
    connection = await asyncpg.connect(url)
    try:
        while True:
            await asyncio.sleep(every)
            ledger.note(f"killed {await kill(connection, *names)}")
    finally:
        connection.terminate()


async def test_killed_connections_lose_and_double_nothing(url: str, sql: asyncpg.Connection) -> None:
    """Workers whose connections are killed after each hundred messages under load lose and double nothing."""
    ledger = Ledger(31)
    stopping = asyncio.Event()

    def acknowledged() -> int:
        return sum(map(len, ledger.acknowledged.values()))

    async def publish(worker: Worker, number: int) -> None:
        serial = 0
        while not stopping.is_set():
            size = ledger.random.choice([1, 40, 900, 9000])
            record = Record(ledger.random.choice(CHANNELS), ledger.data(size))
            if number % 2:
                serial += 1
                await ledger.insist(worker, record._replace(key=f"{worker.name}-{number}-{serial}"))
            else:
                await ledger.publish(worker, [record])
            await asyncio.sleep(ledger.random.uniform(0, 0.02))

    async with workers(url, 3) as all_three:
        readers = [reader for it in all_three for reader in await it.follow(*CHANNELS)]
        async with asyncio.TaskGroup() as group:
            for it in all_three:
                for number in range(8):
                    group.create_task(publish(it, number))
            kills = 0
            for number in range(10):
                await until(lambda number=number: acknowledged() > 100 * (number + 1), "publishers go on")  # type: ignore[misc]
                names = ["abide listen"] if number % 2 else ["abide listen", "abide work", "abide read"]
                killed = await kill(sql, *names)
                ledger.note(f"killed {killed} of {names}")
                kills += killed
            stopping.set()
        await ledger.check(url, readers)
    assert kills >= 30


async def test_a_listener_that_is_killed_twice_in_a_row_comes_back(url: str, sql: asyncpg.Connection) -> None:
    """Worker whose LISTEN is killed again as soon as it is back has a third one, and keeps it."""
    pids = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'abide listen'"
    async with workers(url, 1) as (it,):
        (reader,) = await it.follow("a")
        seen: set[int] = set()
        for _ in range(3):

            async def back() -> bool:
                return await sql.fetchval(pids) not in {*seen, None}

            await until(back, "another session")
            seen.add(await sql.fetchval(pids))
            if len(seen) < 3:
                await kill(sql, "abide listen")
        await it.publish("a", "1")
        await reader.until(1)
        third = await sql.fetchval(pids)
        for _ in range(3):  # whatever the old ones left behind has had its turn
            await sql.fetchval("SELECT pg_sleep(0.3)")
            assert await sql.fetchval(pids) == third
        assert (await it.backend.health()).ok
        await it.publish("a", "2")
        assert await reader.until(2) == [b"1", b"2"]
        assert reader.faults == []
