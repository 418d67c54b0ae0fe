"""Faults under load: hundreds of subscribers of every form, while everything between them and the log breaks.

A schedule comes from a seed, and has every kind of fault. The server, its workers and the engine are real processes; a
part of the subscribers, and the server's own way to the engine, lead through proxies that break connections. Where the
log itself is rewritten, messages are lost lawfully: then everybody must be told, and have the log that there is.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.support import readiness
from tests.support.crowd import Crowd, Tally
from tests.support.live import LiveLedger
from tests.support.postgres import children
from tests.support.proxy import FaultProxy
from tests.support.publishers import Outcome
from tests.support.rewritten import Present
from tests.support.server import Server, ServerError
from tests.support.subscribers import V1, EventStream, LongPoll, ManyV1, Plain, Subscriber, running
from tests.support.verdict import Ledger
from tests.support.worlds.fault import Fault
from tests.support.worlds.world import Kinds, World

CHANNELS = """\
backend: ${DATABASE_URL}
defaults: {publish: anyone, history: {size: 1000000}}
channels:
  hall: {}
  "room.{number}": {}
"""
LIVE = CHANNELS.replace(", history: {size: 1000000}", "")
"""Where nothing is kept."""

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

ANSWERED = 8
"""Seconds within which each push is answered: six, and two of a machine that does too much."""

LOOK = 0.05
"""Seconds after which this process looks whether it is late."""

LONGEST = 5
"""Seconds that something lasts: longer than the server takes to find that a link to its engine is dead."""

LASTING = {"read only": 10, "full disk": 10}
"""Seconds that some things last: longer than the server may need to find out that pushes fail."""

WINDOW = 1
"""Seconds over which a worker that is replaced closes its connections."""

AROUND: Kinds = {
    "kill": ("one", "one", "all"),
    "replace": ("",),
    "cut subscribers": ("",),
    "half-open subscribers": ("heal", "cut"),
    "edit": ("add", "remove"),
    "broken edit": tuple(map(str, range(len(BROKEN)))),
    "leave": ("",),
    "stall subscribers": ("",),
}
"""What befalls the server and its subscribers, whatever the engine is."""

BETWEEN: Kinds = {"cut": ("",), "half-open": ("heal", "cut"), "mute network": ("",)}
"""What befalls the network between the server and the engine."""


def faults_of(world: type[World]) -> Kinds:
    """Return every kind of fault by which nothing is lost there."""
    return {**AROUND, **(BETWEEN if world.networked else {}), **world.faults}


def schedule(seed: int, seconds: float, world: type[World], *, losses: bool = False) -> list[Fault]:
    """Return what breaks within ``seconds``: every kind, and again and again one a second where there is time.

    With ``losses`` the log is rewritten in each way, once.
    """
    chance = random.Random(seed)  # noqa: S311 — a test that can be repeated, not a secret
    ways = {**faults_of(world), **(world.losses if losses else {})}
    more = chance.choices(list(faults_of(world)), k=max(0, round(seconds) - len(faults_of(world))))
    kinds = [*ways, *more]
    chance.shuffle(kinds)
    step = seconds / len(kinds)
    return [
        Fault(
            round((number + chance.random()) * step, 2),
            kind,
            chance.choice(ways[kind]),
            round(chance.uniform(0.2, min(seconds / 3, LASTING.get(kind, LONGEST))), 2),
        )
        for number, kind in enumerate(kinds)
    ]


class Place(NamedTuple):
    """What a run is played on."""

    server: Server
    channels: str
    """The text of its channels.yaml."""
    world: World
    portal: BlockingPortal
    """Of the loop that the proxies turn in: a busy crowd is not to delay the server's way to its log."""

    outside: FaultProxy
    """Between subscribers and server."""


@contextmanager
def place(world: type[World]) -> Iterator[Place]:
    """Set up a server with two workers on an engine of its own, and the proxies."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        it = world(stack, portal)
        env = {
            "DATABASE_URL": it.url,
            "WEB_CONCURRENCY": "2",
            "DRAIN_SECONDS": str(WINDOW),
            "LOG_LEVEL": "warning",
        }
        channels = CHANNELS if it.history else LIVE
        server = stack.enter_context(Server(channels=channels, env=env, ready_path="/health/ready"))
        outside = FaultProxy("127.0.0.1", server.port)
        yield Place(server, channels, it, portal, stack.enter_context(portal.wrap_async_context_manager(outside)))


class Load(NamedTuple):
    """How much goes on."""

    subscribers: int
    seconds: float
    """How long things break."""

    rate: float
    """Messages a second in each channel."""

    settling: float
    """Seconds after which whoever has not come to the end is taken to hang."""


class Run(Crowd):
    """One schedule, played."""

    def __init__(self, place: Place, seed: int, load: Load) -> None:
        super().__init__(place.server.url, Ledger({}) if place.world.history else LiveLedger())
        self._place = place
        self._world = place.world
        self._load = load
        self._chance = random.Random(f"crowd of {seed}")  # noqa: S311 — as above
        self._operating = asyncio.Lock()
        self._over = self._settled = False
        self._samples: list[readiness.Sample] = []
        self._lags: list[tuple[float, float]] = []
        self._failed: list[str] = []
        self._spared: list[str] = []
        self._held: Present = {}
        self._proxied: list[Subscriber] = []
        self.happened: Counter[str] = Counter()
        outside = f"http://127.0.0.1:{place.outside.port}"
        for number in range(load.subscribers):
            form = FORMS[number % len(FORMS)]
            if form is LongPoll and not self._world.history:
                form = EventStream
            channels = self._chance.sample(NAMES, 3 if form is ManyV1 else 1)
            through = number // len(FORMS) % PROXIED == 0
            subscriber = form(
                outside if through else place.server.url,
                *channels,
                timeline=self.timeline,
                name=f"{number}-{'proxied-' * through}",
                # As different as people's: who is refused comes back by and by, not all at once.
                pause=self._chance.uniform(0.05, 1),
            )
            self.subscribers.append(subscriber)
            self._proxied += [subscriber] if through else []

    async def play(self, faults: Sequence[Fault]) -> None:
        """Let it all happen, then end every fault, and let everybody come back and reach the end."""
        async with running(self.subscribers):
            await self.opened()
            watching = [
                asyncio.create_task(readiness.watch(self._place.server.url, self._samples)),
                asyncio.create_task(self._feel_lags()),
            ]
            publishers = [
                *(asyncio.create_task(self._publish(name)) for name in NAMES * PUBLISHERS),
                *(asyncio.create_task(self._publish_besides(name)) for name in NAMES if self._world.besides),
            ]
            began = time.monotonic()
            async with asyncio.TaskGroup() as breaking:
                for fault in faults:
                    await asyncio.sleep(began + fault.at - time.monotonic())
                    breaking.create_task(self._break(fault))
                await asyncio.sleep(began + self._load.seconds - time.monotonic())
            self._over = True
            self.timeline.note("every fault is over")
            self._spared = await self._cut_off()
            await asyncio.wait(publishers, timeout=self._load.settling)
            self._settled = await self._emptied() and await self.settle(NAMES, seconds=self._load.settling, patience=5)
            self.timeline.note("settled" if self._settled else "gave up")
            self.ledger.read(await self._world.read(NAMES))
            self._held = {name: await self.held(name) for name in NAMES if self._world.history}
            for task in (*watching, *publishers):
                task.cancel()
            ended = await asyncio.gather(*publishers, return_exceptions=True)
            self._failed = [f"a publisher failed: {error!r}" for error in ended if isinstance(error, Exception)]

    def wrong(self, *, losses: bool) -> list[str]:
        """Return what is wrong, in words."""
        outcomes = self.publisher.outcomes
        slow = sorted(seconds for seconds in map(self._waited, outcomes) if seconds > ANSWERED)
        return [
            *self._failed,
            *(f"{name} has never lost its connection" for name in self._spared),
            *([] if self._settled else [f"not everybody had the last message within {self._load.settling} s"]),
            *([f"{len(slow)} pushes were answered late, after up to {slow[-1]:.1f} s"] if slow else []),
            *readiness.faults(outcomes, self._samples),
            *([] if losses else self.faults()),
            *(self.faults(self._held) if self._world.history else []),
        ]

    def _waited(self, outcome: Outcome) -> float:
        """Return for how many seconds of a push this process had time to see its answer."""
        ours = sum(lag for at, lag in self._lags if outcome.at - outcome.seconds < at <= outcome.at)
        return outcome.seconds - ours

    async def _feel_lags(self) -> None:
        """Note, until cancelled, when this process is late, and by how many seconds: a crowd is busy."""
        while True:
            due = time.monotonic() + LOOK
            await asyncio.sleep(LOOK)
            self._lags.append((time.monotonic(), time.monotonic() - due))

    async def _cut_off(self) -> list[str]:
        """Return who has kept a connection open through all of it, once nobody has, or when time is up.

        Each worker has been replaced. Who polls needs no connection that lasts.
        """
        lasting = [subscriber for subscriber in self.subscribers if not isinstance(subscriber, LongPoll)]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._load.settling):
                while spared := [each.name for each in lasting if not each.has_been_cut]:  # noqa: ASYNC110 — as below
                    await asyncio.sleep(0.01)
        return spared

    async def _emptied(self) -> bool:
        """Return when what was published besides is in the log: False unless in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._load.settling):
                while not await self._world.is_empty():  # noqa: ASYNC110 — nobody else tells
                    await asyncio.sleep(0.1)
                return True
        return False

    async def _publish_besides(self, channel: str) -> None:
        """Be a publisher of one channel without our server."""
        while not self._over:
            await self._world.publish_besides(self._chance, channel, self)
            await asyncio.sleep(self._chance.expovariate(self._load.rate / PUBLISHERS))

    async def _publish(self, channel: str) -> None:
        """Be a publisher of one channel."""
        while not self._over:
            action = self._chance.choices(("once", "insist", "hurry", "many"), (6, 10, 2, 1))[0]
            number = self._chance.randint(5, 20) if action == "many" else 1
            await self.publish(action, channel, number=number, size=self._chance.choice((10, 300)))
            await asyncio.sleep(self._chance.expovariate(self._load.rate / PUBLISHERS))

    async def _break(self, fault: Fault) -> None:
        """Let one thing happen, and end it where it does not end by itself."""
        self.happened[fault.kind] += 1
        self.timeline.note(" ".join(map(str, fault)))
        match fault.kind:
            case "cut subscribers":
                self._tell(self._place.outside.cut)
            case "half-open subscribers":
                await self._half_open(self._place.outside, fault)
            case "cut":
                self._tell(self._link.cut)
            case "half-open":
                await self._half_open(self._link, fault)
            case kind if kind in AROUND or kind in BETWEEN:
                await getattr(self, f"_{kind.replace(' ', '_')}")(fault)
            case _:
                await self._world.strike(fault, self)
        self.timeline.note(f"{fault.kind} of {fault.at} is over")

    async def _kill(self, fault: Fault) -> None:
        workers = children(self._place.server.pid)
        for pid in workers if fault.way == "all" else workers[:1]:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(pid, signal.SIGKILL)

    async def _replace(self, _: Fault) -> None:
        self._place.server.send_signal(signal.SIGHUP)

    async def _mute_network(self, fault: Fault) -> None:
        """Let every connection be forgotten on its way. Subscribers notice by themselves, and so must the server."""
        self._tell(self._place.outside.forget)
        self._tell(self._link.forget)
        await asyncio.sleep(fault.seconds)
        for subscriber in self._proxied:
            subscriber.leave()
            subscriber.come()

    async def _edit(self, fault: Fault) -> None:
        self._place.server.write_channels(self._place.channels + SPARE * (fault.way == "add"))

    async def _broken_edit(self, fault: Fault) -> None:
        self._place.server.write_channels(BROKEN[int(fault.way)])
        await asyncio.sleep(fault.seconds)
        self._place.server.write_channels(self._place.channels)

    async def _leave(self, fault: Fault) -> None:
        some = self._some()
        for subscriber in some:
            subscriber.leave()
        await asyncio.sleep(fault.seconds)
        for subscriber in some:
            subscriber.come()

    async def _stall_subscribers(self, fault: Fault) -> None:
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

    @property
    def _link(self) -> FaultProxy:
        assert self._world.link is not None
        return self._world.link

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


def play(place: Place, seed: int, load: Load, *, losses: bool = False) -> Played:
    """Play a seed's schedule, with or without losses of the log, and end the server."""
    faults = schedule(seed, load.seconds, type(place.world), losses=losses)
    began = time.monotonic()

    async def run() -> Run:
        run = Run(place, seed, load)
        await run.play(faults)
        return run

    it = asyncio.run(run())
    wrong, tally = [*it.wrong(losses=losses), *_ended(place.server)], it.tally()
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
