"""Faults under load: hundreds of subscribers of every form, while everything between them and the log breaks.

A schedule comes from a seed, and has every kind of fault. The server, its workers and PostgreSQL are real processes; a
part of the subscribers, and the server's own way to PostgreSQL, lead through proxies that break connections.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio.to_thread
import asyncpg
from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.bus.postgres import migrate
from tests.support.crowd import Crowd, Tally
from tests.support.postgres import PostgresServer, children
from tests.support.proxy import FaultProxy
from tests.support.readers import kill
from tests.support.server import Server, ServerError
from tests.support.subscribers import V1, EventStream, LongPoll, ManyV1, Plain, Subscriber, running

CHANNELS = """\
backend: ${DATABASE_URL}
defaults: {publish: anyone, history: {size: 1000000}}
channels:
  hall: {}
  "room.{number}": {}
"""
NAMES = ("hall", *(f"room.{number}" for number in range(1, 8)))
SPARE = "  spare: {}\n"
"""A channel that nobody uses."""

BROKEN = ("", "channels:\n  hall: {publsh: anyone}\n", CHANNELS.replace("{}", "{"), "channels: [\n")
"""Edits that are to change nothing: what an editor leaves for a moment, a mistake in a key, two of YAML."""

FORMS = (Plain, Plain, V1, V1, V1, ManyV1, EventStream, EventStream, EventStream, LongPoll)
"""What ten subscribers are."""

PROXIED = 4
"""Each so many-th subscriber comes through a proxy."""

PUBLISHERS = 2
"""Of each channel: while one waits for an answer the other goes on."""

LONGEST = 5
"""Seconds that something lasts: longer than the server takes to find that a link to PostgreSQL is dead."""

WINDOW = 1
"""Seconds over which a worker that is replaced closes its connections."""

KINDS = (
    "kill",
    "replace",
    "restart postgres",
    "kill listen",
    "cut subscribers",
    "half-open subscribers",
    "cut postgres",
    "half-open postgres",
    "edit",
    "broken edit",
    "leave",
    "stall",
)
"""Every kind of fault, of which a schedule has at least one."""


class Fault(NamedTuple):
    """What breaks, and when: seconds from the beginning. ``seconds`` is how long, of what lasts."""

    at: float
    kind: str
    way: str
    """Which of several ways it breaks."""

    seconds: float


def schedule(seed: int, seconds: float) -> list[Fault]:
    """Return what breaks within ``seconds``: every kind, and again and again one a second where there is time."""
    chance = random.Random(seed)  # noqa: S311 — a test that can be repeated, not a secret
    kinds = [*KINDS, *chance.choices(KINDS, k=max(0, round(seconds) - len(KINDS)))]
    chance.shuffle(kinds)
    step = seconds / len(kinds)
    return [
        Fault(
            round((number + chance.random()) * step, 2),
            kind,
            chance.choice(_WAYS.get(kind, ("",))),
            round(chance.uniform(0.2, min(seconds / 3, LONGEST)), 2),
        )
        for number, kind in enumerate(kinds)
    ]


_WAYS: dict[str, Sequence[str]] = {
    "kill": ("one", "one", "all"),
    "restart postgres": ("fast", "immediate", "crash"),
    "half-open subscribers": ("heal", "cut"),
    "half-open postgres": ("heal", "cut"),
    "edit": ("add", "remove"),
    "broken edit": tuple(map(str, range(len(BROKEN)))),
}


class Place(NamedTuple):
    """What a run is played on."""

    server: Server
    postgres: PostgresServer
    database: str
    portal: BlockingPortal
    """Of the loop that the proxies turn in: a busy crowd is not to delay the server's way to its log."""

    outside: FaultProxy
    """Between subscribers and server."""

    inside: FaultProxy
    """Between server and PostgreSQL."""


@contextmanager
def place(postgres: PostgresServer) -> Iterator[Place]:
    """Set up a server with two workers on a database of its own, and the proxies."""
    database = asyncio.run(postgres.create_database())
    asyncio.run(migrate(postgres.url(database)))
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())

        def proxy(port: int) -> FaultProxy:
            return stack.enter_context(portal.wrap_async_context_manager(FaultProxy("127.0.0.1", port)))

        inside = proxy(postgres.port)
        env = {
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{inside.port}/{database}",
            "WEB_CONCURRENCY": "2",
            "DRAIN_SECONDS": str(WINDOW),
            "LOG_LEVEL": "warning",
        }
        server = stack.enter_context(Server(channels=CHANNELS, env=env, ready_path="/health/ready"))
        yield Place(server, postgres, database, portal, proxy(urlsplit(server.url).port or 0), inside)


class Load(NamedTuple):
    """How much goes on."""

    subscribers: int
    seconds: float
    """How long things break."""

    rate: float
    """Messages a second in each channel."""

    settling: float
    """The most seconds that everybody may need in the end."""


class Run(Crowd):
    """One schedule, played."""

    def __init__(self, place: Place, seed: int, load: Load) -> None:
        super().__init__(place.server.url, {})
        self._place = place
        self._load = load
        self._chance = random.Random(f"crowd of {seed}")  # noqa: S311 — as above
        self._restarting = asyncio.Lock()
        self._over = self._settled = False
        self.happened: Counter[str] = Counter()
        outside = f"http://127.0.0.1:{place.outside.port}"
        for number in range(load.subscribers):
            form = FORMS[number % len(FORMS)]
            channels = self._chance.sample(NAMES, 3 if form is ManyV1 else 1)
            through = number // len(FORMS) % PROXIED == 0
            self.subscribers.append(
                form(
                    outside if through else place.server.url,
                    *channels,
                    timeline=self.timeline,
                    name=f"{number}-{'proxied-' * through}",
                    # As different as people's: who is refused comes back by and by, not all at once.
                    pause=self._chance.uniform(0.05, 1),
                )
            )

    async def play(self, faults: Sequence[Fault]) -> None:
        """Let it all happen, then mend everything, and let everybody come back and reach the end."""
        async with running(self.subscribers):
            await self.opened()
            publishers = [asyncio.create_task(self._publish(name)) for name in NAMES * PUBLISHERS]
            began = time.monotonic()
            async with asyncio.TaskGroup() as breaking:
                for fault in faults:
                    await asyncio.sleep(began + fault.at - time.monotonic())
                    breaking.create_task(self._break(fault))
                await asyncio.sleep(began + self._load.seconds - time.monotonic())
            self._over = True
            self.timeline.note("all is mended")
            await asyncio.wait(publishers, timeout=self._load.settling)
            self._settled = await self.settle(NAMES, seconds=self._load.settling, patience=5)
            self.timeline.note("settled" if self._settled else "gave up")
            for publisher in publishers:
                publisher.cancel()
            for ended in await asyncio.gather(*publishers, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended

    def faults(self) -> list[str]:
        """Return what is wrong, in words."""
        late = [] if self._settled else [f"not everybody had the last message within {self._load.settling} s"]
        return late + super().faults()

    async def _publish(self, channel: str) -> None:
        """Be a publisher of one channel."""
        while not self._over:
            action = self._chance.choices(("once", "insist", "hurry", "many"), (6, 10, 2, 1))[0]
            number = self._chance.randint(5, 20) if action == "many" else 1
            await self.publish(action, channel, number=number, size=self._chance.choice((10, 300)))
            await asyncio.sleep(self._chance.expovariate(self._load.rate / PUBLISHERS))

    async def _break(self, fault: Fault) -> None:
        """Let one thing happen, and mend it where it does not mend itself."""
        self.happened[fault.kind] += 1
        self.timeline.note(" ".join(map(str, fault)))
        match fault.kind:
            case "cut subscribers":
                self._tell(self._place.outside.cut)
            case "cut postgres":
                self._tell(self._place.inside.cut)
            case "half-open subscribers":
                await self._half_open(self._place.outside, fault)
            case "half-open postgres":
                await self._half_open(self._place.inside, fault)
            case _:
                await getattr(self, f"_{fault.kind.replace(' ', '_')}")(fault)
        self.timeline.note(f"{fault.kind} of {fault.at} is over")

    async def _kill(self, fault: Fault) -> None:
        workers = children(self._place.server.pid)
        for pid in workers if fault.way == "all" else workers[:1]:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(pid, signal.SIGKILL)

    async def _replace(self, _: Fault) -> None:
        self._place.server.send_signal(signal.SIGHUP)

    async def _restart_postgres(self, fault: Fault) -> None:
        postgres = self._place.postgres
        async with self._restarting:
            stop: Mapping[str, Callable[[], None]] = {
                "fast": postgres.stop,
                "immediate": partial(postgres.stop, "immediate"),
                "crash": postgres.crash,
            }
            await anyio.to_thread.run_sync(stop[fault.way])
            await anyio.to_thread.run_sync(postgres.start)

    async def _kill_listen(self, _: Fault) -> None:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it may be away
            connection = await asyncpg.connect(self._place.postgres.url(self._place.database))
            try:
                await kill(connection, "abide listen")
            finally:
                connection.terminate()

    async def _edit(self, fault: Fault) -> None:
        self._place.server.write_channels(CHANNELS + SPARE * (fault.way == "add"))

    async def _broken_edit(self, fault: Fault) -> None:
        self._place.server.write_channels(BROKEN[int(fault.way)])
        await asyncio.sleep(fault.seconds)
        self._place.server.write_channels(CHANNELS)

    async def _leave(self, fault: Fault) -> None:
        some = self._some()
        for subscriber in some:
            subscriber.leave()
        await asyncio.sleep(fault.seconds)
        for subscriber in some:
            subscriber.come()

    async def _stall(self, fault: Fault) -> None:
        some = self._some()
        for subscriber in some:
            subscriber.stall()
        await asyncio.sleep(fault.seconds)
        for subscriber in some:
            subscriber.go_on()

    def _some(self) -> list[Subscriber]:
        return self._chance.sample(self.subscribers, len(self.subscribers) // 10)

    async def _half_open(self, proxy: FaultProxy, fault: Fault) -> None:
        self._tell(proxy.half_open)
        await asyncio.sleep(fault.seconds)
        if fault.way == "cut":
            self._tell(proxy.cut)
        self._tell(proxy.heal)

    def _tell(self, control: Callable[[], None]) -> None:
        self._place.portal.call(control)


class Played(NamedTuple):
    """How a run went."""

    wrong: list[str]
    tally: Tally
    line: str
    """What happened, for a list of runs."""

    report: str
    """What is wrong, the schedule and a timeline."""


def play(place: Place, seed: int, load: Load) -> Played:
    """Play a seed's schedule, and end the server."""
    faults = schedule(seed, load.seconds)
    began = time.monotonic()

    async def run() -> Run:
        run = Run(place, seed, load)
        await run.play(faults)
        return run

    it = asyncio.run(run())
    wrong, tally = [*it.faults(), *_ended(place.server)], it.tally()
    happened = ", ".join(f"{count} {kind}" for kind, count in sorted(it.happened.items()))
    line = f"seed {seed}: {len(wrong)} wrong; {tally}; {happened}; {time.monotonic() - began:.1f} s"
    return Played(wrong, tally, line, it.report(f"seed {seed}", wrong, faults))


def _ended(server: Server) -> list[str]:
    """End the server; return what is wrong with that, and what it has logged that nobody had thought of."""
    try:
        code = server.stop()
    except ServerError as error:
        return [str(error)]
    unforeseen = [str(line) for line in server.log if "exception" in line]
    unforeseen += [line for line in server.stderr if "Traceback" in line]
    return [*([f"the server ended with {code}"] if code else []), *unforeseen]
