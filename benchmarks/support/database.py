"""Load on the database: publishing from SQL, and an idle deployment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.support import sides
from benchmarks.support.lab import RECEIVERS, Lab, Section, median, milliseconds
from benchmarks.support.messages import CHANNELS, compose, compose_anonymous
from benchmarks.support.processes import Flow, Process, Worker
from benchmarks.support.speed import SMALL
from benchmarks.support.waiting import until
from tests.support.postgres import find_binaries

CLIENTS = (1, 32)

_MESSAGE = compose_anonymous(SMALL)
_LEAD = "UPDATE abide.turn SET holder = pg_backend_pid(), until = abide.now_ms() + $1 WHERE what = 'lead'"
_PLAIN = "CREATE TABLE public.plain (LIKE abide.outbox INCLUDING ALL)"
_INSERT = "INSERT INTO public.plain (channel, data) VALUES ('bench.' || {channel}, '{message}')"
_PUBLISH = "SELECT abide.publish('bench.' || {channel}, '{message}')"

_BASE = "plain INSERT"
_NOTIFY = "INSERT + NOTIFY"
_PAUSED = "abide.publish, drain paused"
_RUNNING = "abide.publish, drain running"
_STATEMENTS = {
    _BASE: _INSERT,
    _NOTIFY: "WITH new AS (" + _INSERT + " RETURNING seq) SELECT pg_notify('bench', seq::text) FROM new",  # noqa: S608
    _PAUSED: _PUBLISH,
    _RUNNING: _PUBLISH,
}
"""What each client repeats; ``{channel}`` is the number of a channel."""

_DRAINED = "SELECT coalesce(sum(head), 0)::bigint FROM abide.head"
_DRAIN_SECONDS = 120.0
_DRAIN_POLL_SECONDS = 0.005
_DRAIN_PAUSE_SECONDS = 0.1
"""The outbox mover was asleep if it made no progress for this long; time and messages then count from its next step."""


IDLE_LATENCIES = 50
_IDLE_PAUSE = 2.0

_IDLE_WORKERS = 2
_SETTLE_SECONDS = 12.0
"""Until idle sessions have reported what they did (10 s), and connections that were only needed at first are closed."""

_WATCH_SECONDS = 20.0
_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)")
_COMMENT = re.compile(r"--.*")


@dataclass(slots=True)
class _Rates:
    """Commits per second of each variant, and messages per second of the outbox mover; a value for every round."""

    commits: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _STATEMENTS})
    drained_alone: list[float] = field(default_factory=list)
    drained_under_load: list[float] = field(default_factory=list)

    def ratios(self, name: str) -> list[float]:
        """Return a variant's commits in relation to plain INSERT's of the same round."""
        return [mine / base for mine, base in zip(self.commits[name], self.commits[_BASE], strict=True)]


async def sql(lab: Lab) -> Section:
    """Measure what publishing costs in a transaction, and how fast the outbox mover follows."""
    section = Section("sql", "Publishing from SQL: commits/s, and in relation to plain INSERT", ())
    section.columns = ("variant", *(f"{clients} client{'s' * (clients > 1)}" for clients in CLIENTS))
    results = {clients: _Rates() for clients in CLIENTS}
    for _ in range(lab.options.rounds):
        for clients, rates in results.items():
            await _sql_round(lab, clients, rates)
    for name in _STATEMENTS:
        cells = (f"{median(r.commits[name]):,.0f} ({median(r.ratios(name)):.0%})" for r in results.values())
        section.rows.append((name, *cells))
    for name, attribute in (("alone", "drained_alone"), ("under this load", "drained_under_load")):
        cells = (f"{median(getattr(rates, attribute)):,.0f}" for rates in results.values())
        section.rows.append((f"drained messages/s, {name}", *cells))
    section.notes.append(
        f"Clients: {'pgbench with prepared statements' if _pgbench() else 'asyncpg'}. {RECEIVERS} sessions listen to "
        "INSERT + NOTIFY. While the drain runs, a worker follows all channels, on the same CPUs. Plain INSERT goes "
        "first and last in every round; its mean counts."
    )
    section.data = {str(clients): asdict(rates) for clients, rates in results.items()}
    return section


async def sql_latency(lab: Lab) -> Section:
    """Measure from the call of ``abide.publish`` on an idle deployment to the arrival."""
    section = Section("sql-latency", "Latency from SQL to the slower subscriber, idle before", ())
    section.columns = ("messages", "sent → received: median", "max", "committed → received: median", "commit: median")
    count = 5 if lab.options.quick else IDLE_LATENCIES
    commits: list[tuple[float, float]] = []
    async with lab.deployment("abide", recording=True) as deployment, lab.connection(deployment.database) as client:
        await client.execute("SELECT 1")
        for number in range(1, count + 1):
            await asyncio.sleep(_IDLE_PAUSE)
            began = time.monotonic()
            await client.execute("SELECT abide.publish($1, $2::jsonb)", CHANNELS[0], compose(number, SMALL))
            commits.append((began, time.monotonic()))
        receipts = await deployment.received({CHANNELS[0]: count})
    lab.judge("latency from SQL", Flow({CHANNELS[0]: count}), receipts)
    arrivals = [max(times) for times in zip(*(receipt.arrived_at for receipt in receipts), strict=False)]
    whole = [arrived - began for arrived, (began, _) in zip(arrivals, commits, strict=False)]
    after = [arrived - committed for arrived, (_, committed) in zip(arrivals, commits, strict=False)]
    commit = [committed - began for began, committed in commits]
    values = (median(whole), max(whole), median(after), median(commit))
    section.rows.append((str(count), *(milliseconds(value) for value in values)))
    section.notes.append(f"{_IDLE_PAUSE:.0f} s between two messages.")
    section.data = {"sent_to_received": whole, "committed_to_received": after}
    return section


async def idle(lab: Lab) -> Section:
    """Count connections and statements of workers that follow channels in which nothing happens."""
    section = Section("idle", "An idle worker that follows ten channels", ())
    section.columns = ("side", "connections", "transactions/s", "statements/s", "by statement")
    section.notes.append("A session that listens handles each notification in a transaction, which counts as one.")
    for side in ("stock", "abide"):
        section.rows.append(await _idle_row(lab, side, section))
    return section


async def _sql_round(lab: Lab, clients: int, rates: _Rates) -> None:
    """Measure every variant on one database; plain INSERT before and after the others: the machine's pace drifts."""
    async with lab.database("abide") as database, lab.connection(database) as control:
        await control.execute(_PLAIN)
        before = (await _load(lab, database, _BASE, clients)).rate
        async with _listening(lab, database):
            rates.commits[_NOTIFY].append((await _load(lab, database, _NOTIFY, clients)).rate)
        await control.execute("SELECT abide.stay_awake(3600000)")  # as the leading outbox mover does
        paused = await _load(lab, database, _PAUSED, clients)
        rates.commits[_PAUSED].append(paused.rate)
        await control.execute(_LEAD, 60_000)
        async with lab.processes("abide", database, 1) as [worker]:
            await worker.ask(Worker.follow, recording=False)
            await control.execute(_LEAD, 0)
            rates.drained_alone.append(await _drain_rate(control, paused.commits))
            running = await _load(lab, database, _RUNNING, clients)
            rates.commits[_RUNNING].append(running.rate)
            moved = await control.fetchval(_DRAINED) - paused.commits
            rates.drained_under_load.append(moved / running.seconds)
            await _account(lab, control, worker, paused.commits + running.commits)
        after = (await _load(lab, database, _BASE, clients)).rate
        rates.commits[_BASE].append((before + after) / 2)


@dataclass(frozen=True, slots=True)
class _Load:
    commits: int
    rate: float
    seconds: float


async def _load(lab: Lab, database: str, name: str, clients: int) -> _Load:
    """Let clients repeat a statement, each in its own transaction."""
    run = _load_by_pgbench if _pgbench() else _load_by_asyncpg
    return await run(lab.server.url(database), _STATEMENTS[name], clients, max(1, round(lab.options.seconds)))


async def _load_by_pgbench(url: str, statement: str, clients: int, seconds: int) -> _Load:
    script = f"\\set c random(0, {len(CHANNELS) - 1})\n{statement.format(channel=':c', message=_MESSAGE)};\n"
    arguments = ("-n", "-Mprepared", f"-c{clients}", f"-j{min(2, clients)}", f"-T{seconds}", "-f-", url)
    run = functools.partial(subprocess.run, stdout=subprocess.PIPE, text=True, check=False)
    done = await asyncio.to_thread(run, [str(_pgbench()), *arguments], input=script, timeout=seconds + _DRAIN_SECONDS)
    commits = re.search(r"actually processed: (\d+)", done.stdout)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or commits is None or rate is None:
        msg = f"pgbench failed:\n{done.stdout}"
        raise RuntimeError(msg)
    return _Load(int(commits[1]), float(rate[1]), int(commits[1]) / float(rate[1]))


async def _load_by_asyncpg(url: str, statement: str, clients: int, seconds: int) -> _Load:
    connections = [await asyncpg.connect(url) for _ in range(clients)]
    query = statement.format(channel="$1::int", message=_MESSAGE)
    began = time.monotonic()

    async def repeat(connection: asyncpg.Connection) -> int:
        count = 0
        while time.monotonic() < began + seconds:
            await connection.execute(query, count % len(CHANNELS))
            count += 1
        return count

    try:
        commits = sum(await asyncio.gather(*map(repeat, connections)))
        took = time.monotonic() - began
    finally:
        for connection in connections:
            connection.terminate()
    return _Load(commits, commits / took, took)


def _pgbench() -> Path | None:
    path = find_binaries() / "pgbench"
    return path if path.exists() else None


@contextlib.asynccontextmanager
async def _listening(lab: Lab, database: str) -> AsyncIterator[None]:
    """Listen to the notifications of the variant that sends them, as receivers would."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(RECEIVERS):
            connection = await stack.enter_async_context(lab.connection(database))
            await connection.add_listener("bench", lambda *_: None)
        yield


async def _drain_rate(control: asyncpg.Connection, total: int) -> float:
    """Return messages per second while the outbox mover moves a backlog without a pause."""
    began = changed = looked = time.monotonic()
    before = moved = 0
    async with asyncio.timeout(_DRAIN_SECONDS):
        while moved < total:
            known, moved = moved, await control.fetchval(_DRAINED)
            now = time.monotonic()
            if moved > known:
                if now - changed > _DRAIN_PAUSE_SECONDS:
                    began, before = looked, known
                changed = now
            looked = now
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
    return (total - before) / (changed - began)


async def _account(lab: Lab, control: asyncpg.Connection, worker: Process, commits: int) -> None:
    """Note a fault unless every commit became one message, in the log and at the subscriber."""

    async def is_empty() -> bool:
        return not await control.fetchval("SELECT count(*) FROM abide.outbox")

    await until(is_empty, seconds=_DRAIN_SECONDS)
    heads: dict[str, int] = {row["channel"]: row["head"] for row in await control.fetch("SELECT * FROM abide.head")}
    receipt = await worker.ask(Worker.received, heads)
    if sum(heads.values()) != commits or not receipt.is_exact:
        lab.faults.append(
            f"sql: {commits} commits, {sum(heads.values())} in the log, {receipt.received} received "
            f"({receipt.lost} lost, {receipt.doubled} doubled, {receipt.disordered} out of order)"
        )


async def _idle_row(lab: Lab, side: sides.Name, section: Section) -> tuple[str, ...]:
    watch = 2.0 if lab.options.quick else _WATCH_SECONDS
    async with lab.database(side) as database, lab.connection() as control:
        await control.execute(f"ALTER DATABASE \"{database}\" SET log_statement = 'all'")
        async with lab.processes(side, database, _IDLE_WORKERS) as workers:
            for worker in workers:
                await worker.ask(Worker.follow, recording=False)
            await asyncio.sleep(_SETTLE_SECONDS)
            logged, transactions = lab.server.log.stat().st_size, await _transactions(control, database)
            await asyncio.sleep(watch)
            transactions = await _transactions(control, database) - transactions
            statements = _statements(lab.server.log, logged)
            connections = await control.fetch(
                "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = $1 GROUP BY 1", database
            )
    per_worker = {name: count / _IDLE_WORKERS for name, count in connections}
    by_text = {text: statements.count(text) / watch / _IDLE_WORKERS for text in sorted(set(statements))}
    section.data[side] = {"connections": per_worker, "statements_per_second": by_text}
    return (
        {"stock": "stock", "abide": "Abide"}[side],
        " + ".join(f"{count:g} {name}" for name, count in per_worker.items()),
        f"{transactions / watch / _IDLE_WORKERS:.2f}",
        f"{sum(by_text.values()):.2f}",
        "; ".join(f"{rate:.2f} `{text[:60]}`" for text, rate in by_text.items()) or "-",
    )


async def _transactions(control: asyncpg.Connection, database: str) -> int:
    return int(
        await control.fetchval("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1", database)
    )


def _statements(log: Path, start: int) -> list[str]:
    """Return the statements that the server has logged since its log had ``start`` bytes."""
    with log.open("rb") as file:
        file.seek(start)
        found = _STATEMENT.findall(file.read().decode(errors="replace"))
    return [" ".join(_COMMENT.sub("", text).split()) for text in found]
