"""The whole server on one small machine: what runs in its memory, the load, and the three faults."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from benchmarks.client.fanclient import ClientError
from benchmarks.client.followers import Answer, Followers
from benchmarks.peers import machine, nginx
from benchmarks.peers.servers import KEY, PeerError
from benchmarks.support.memory_group import MemoryGroup
from tests.support.postgres import PostgresServer
from tests.support.processes import Process, end, free_port, launch, wait_answer

CHANNELS = """\
backend: "${BACKEND}"
auth: {keys: "${PUSH_KEYS}"}
channels:
  "m.{number}": {publish: key}
"""

POSTGRES = {
    "shared_buffers": "64MB",
    "max_connections": "30",
    "work_mem": "2MB",
    "maintenance_work_mem": "16MB",
    "autovacuum_max_workers": "1",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "max_wal_size": "256MB",
    "wal_buffers": "1MB",
    "jit": "off",
    "huge_pages": "off",
}
"""What a person sets who gives PostgreSQL a part of 512 MiB. All else is PostgreSQL's default; fsync is on."""

FAULTS = ("rolling restart", "Postgres restart", "storm")
"""In the order in which they come; the client's phase is the place in here, counted from one."""

WORKERS = 2
PUBLISHERS = 100
CONNECTING = 2000
"""Handshakes under way at once."""

_START_SECONDS = 60.0
_CONNECT_SECONDS = 20.0
_FAULT_SECONDS = {"abide": 90.0}
_PEER_FAULT_SECONDS = 20.0
_SETTLE_SECONDS = 2.0
_END_SECONDS = 30.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """What the machine is to carry. Channels and deliveries follow from the number of subscribers."""

    subscribers: int
    rate: float
    minutes: float

    @property
    def channels(self) -> int:
        """Ten subscribers share one; each publisher has as many."""
        return max(1, self.subscribers // 10 // PUBLISHERS) * PUBLISHERS

    @property
    def drain_seconds(self) -> int:
        """The default, unless the run is too short for it."""
        return max(1, min(15, int(self.minutes * 60 / 16)))


@dataclass(frozen=True, slots=True)
class Side:
    """A server that is to carry it. ``client`` are the load client's settings for it."""

    name: str
    title: str
    command: Callable[[Path, int], list[str]]
    client: Mapping[str, object]
    database: bool = True
    environment: Callable[[Path, str, Load], dict[str, str]] = lambda _folder, _url, _load: {}
    health: str = "/health/live"
    absence: Callable[[], str | None] = lambda: None


class Machine:
    """What runs in the group: the server, and PostgreSQL if it needs one. Ends with the context."""

    def __init__(self, side: Side, group: MemoryGroup, load: Load) -> None:
        self.side, self.port, self._group, self._load = side, free_port(), group, load
        self._folder = tempfile.TemporaryDirectory(prefix="abide-machine-")
        self.log = Path(self._folder.name, "server.log")
        self._database = PostgresServer(settings=POSTGRES) if side.database else None
        self._process: Process | None = None
        self._postmaster = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            end(self._process)
        if self._database is not None:
            self._database.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The server's first process."""
        return self._process.pid if self._process is not None else 0

    def workers(self) -> set[int]:
        """Return the processes that the first has started."""
        return set(machine.family(self.pid)) - {self.pid}

    def restart(self) -> None:
        """Have the workers replaced one after another, as each of the servers is told to."""
        os.kill(self.pid, signal.SIGHUP)

    def restart_database(self) -> None:
        """Restart PostgreSQL as its service does: without waiting for clients to leave."""
        if self._database is not None:
            with self._group.inside():
                self._database.restart("fast")
            self._postmaster = self._database.pids()[0]

    def kill_workers(self) -> None:
        """End all workers at the same moment, as kill -9 does; the first process starts others."""
        for pid in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def rss(self) -> int:
        """Return the bytes that the server's processes have in RAM; what they share counts in each of them."""
        with contextlib.suppress(OSError):
            return machine.resident(machine.family(self.pid))
        return 0

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds of the server and of PostgreSQL so far."""
        return machine.cpu_of_all(self.pid), machine.cpu_of_all(self._postmaster) if self._postmaster else 0.0

    def database_connections(self) -> int:
        """Return how many clients PostgreSQL has."""
        count = 0
        for pid in machine.family(self._postmaster) if self._postmaster else ():
            with contextlib.suppress(OSError):
                count += b" 127.0.0.1(" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return count

    def _start(self) -> None:
        folder, url = Path(self._folder.name), ""
        with self._group.inside():
            if self._database is not None:
                self._database.start()
                self._postmaster, url = self._database.pids()[0], self._database.url()
            environment = os.environ | self.side.environment(folder, url, self._load)
            with self.log.open("wb") as log:
                command = self.side.command(folder, self.port)
                self._process = launch(command, environment, stdout=log, stderr=log)
        if not wait_answer(
            self._process, self.port, self.side.health, seconds=_START_SECONDS, any_status=self.side.name != "abide"
        ):
            msg = f"{self.side.title} does not answer; it said: {self.log.read_text(errors='replace')[-2000:]}"
            raise PeerError(msg)


@dataclass(slots=True)
class Peaks:
    """The most of each thing that was seen, in bytes and numbers."""

    needed: int = 0
    total: int = 0
    anon: int = 0
    cache: int = 0
    shared: int = 0
    kernel: int = 0
    sockets: int = 0
    rss: int = 0
    connections: int = 0

    def see(self, **values: int) -> None:
        """Take what is there now."""
        for name, value in values.items():
            setattr(self, name, max(getattr(self, name), value))


class Watch:
    """Looks at the machine five times a second, in a thread."""

    def __init__(self, what: Machine, group: MemoryGroup) -> None:
        self.peaks, self._machine, self._group = Peaks(), what, group
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            usage = self._group.look()
            if usage is not None:
                names = ("needed", "total", "anon", "cache", "shared", "kernel", "sockets")
                self.peaks.see(**{name: getattr(usage, name) for name in names})
            self.peaks.see(rss=self._machine.rss(), connections=self._machine.database_connections())


@dataclass(slots=True)
class Outcome:
    """What one side did. ``account`` is the client's."""

    account: Answer = field(default_factory=dict)
    peaks: Peaks = field(default_factory=Peaks)
    limit: str = ""
    killed: int = 0
    """Processes that the kernel killed for want of memory."""
    live: int = 0
    """Subscribers that were there when publishing began."""
    fault_seconds: dict[str, float] = field(default_factory=dict)
    """From a fault until everybody was back and nothing waited; by its name."""
    cores: dict[str, float] = field(default_factory=dict)
    """Cores in use outside faults; by who used them."""
    deliveries: int = 0
    """Those outside faults, in the time of ``cores``."""
    steady_seconds: float = 0.0
    logged: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Run:
    """One side under the load, from the first connection to the account."""

    def __init__(self, what: Machine, client: Followers, load: Load, outcome: Outcome) -> None:
        self._machine, self._client, self._load, self._outcome = what, client, load, outcome
        self._began = time.monotonic()
        self._told = 0.0
        self._cpu = {"server": 0.0, "PostgreSQL": 0.0, "client": 0.0}

    def all(self) -> None:
        """Connect, publish, break things, and take the account."""
        outcome, client = self._outcome, self._client
        outcome.live = int(client.connect(_CONNECT_SECONDS)["live"])
        self._tell(client.look(), "connected")
        if outcome.live < self._load.subscribers:
            outcome.problems.append(f"only {outcome.live:,} of {self._load.subscribers:,} subscribers were admitted")
        time.sleep(_SETTLE_SECONDS)
        client.publish(self._load.rate)
        self._began = self._told = time.monotonic()
        for number, fault in enumerate(FAULTS, 1):
            self._steady(until=self._began + self._load.minutes * 60 * number / (len(FAULTS) + 1))
            if fault != "Postgres restart" or self._machine.side.database:
                self._break(number, fault)
        self._steady(until=self._began + self._load.minutes * 60)
        outcome.account = client.end(_END_SECONDS)
        for who, seconds in self._cpu.items():
            outcome.cores[who] = seconds / max(outcome.steady_seconds, 0.001)

    def _steady(self, until: float) -> None:
        began, before, look = time.monotonic(), self._machine.cpu(), self._client.look()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            self._tell_sometimes()
        after, now = self._machine.cpu(), self._client.look()
        self._cpu["server"] += after[0] - before[0]
        self._cpu["PostgreSQL"] += after[1] - before[1]
        self._cpu["client"] += now["client_cpu"] - look["client_cpu"]
        self._outcome.deliveries += now["received"] - look["received"]
        self._outcome.steady_seconds += time.monotonic() - began

    def _break(self, number: int, fault: str) -> None:
        before, look, began = self._machine.workers(), self._client.phase(number), time.monotonic()
        if fault == "rolling restart":
            self._machine.restart()
        elif fault == "storm":
            self._machine.kill_workers()
        else:
            self._machine.restart_database()
        most = _FAULT_SECONDS.get(self._machine.side.name, _PEER_FAULT_SECONDS)
        deadline = began + most + self._load.drain_seconds
        while not self._is_over(before if fault != "Postgres restart" else set(), look):
            if time.monotonic() > deadline:
                self._outcome.problems.append(f"{fault}: not everybody was back after {deadline - began:.0f} s")
                break
            time.sleep(_POLL_SECONDS)
            self._tell_sometimes()
        self._outcome.fault_seconds[fault] = time.monotonic() - began
        self._tell(self._client.look(), f"{fault} over after {time.monotonic() - began:.1f} s")
        time.sleep(_SETTLE_SECONDS)
        self._client.phase(0)

    def _is_over(self, before: set[int], look: Answer) -> bool:
        """Tell whether the old workers are gone, everybody who was there is back, and no push waits for long."""
        now = self._client.look()
        return (
            not before & self._machine.workers() and now["live"] >= look["live"] and now["unanswered"] < PUBLISHERS / 2
        )

    def _tell_sometimes(self) -> None:
        if time.monotonic() - self._told >= min(60.0, self._load.minutes * 15):
            self._told = time.monotonic()
            self._tell(self._client.look(), "")

    def _tell(self, look: Answer, what: str) -> None:
        tell(
            f"{self._machine.side.name} {time.monotonic() - self._began:4.0f} s: {look['live']:,} live, "
            f"{look['published']:,} published, {look['received']:,} received {what}"
        )


def tell(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def carry(side: Side, binary: Path, load: Load, limit: int) -> Outcome:
    """Let a side carry the load in so many bytes of memory. What goes wrong is in the outcome, too."""
    outcome = Outcome()
    with MemoryGroup(limit) as group:
        outcome.limit = group.kind
        try:
            with Machine(side, group, load) as what:
                try:
                    with Watch(what, group) as watch, Followers(binary, client_settings(what, load)) as client:
                        outcome.peaks = watch.peaks
                        Run(what, client, load, outcome).all()
                finally:
                    outcome.killed = group.killed()
                    outcome.logged = warnings_in(what.log)
        except (ClientError, PeerError, RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            outcome.problems.append(f"{type(error).__name__}: {error}")
    return outcome


def client_settings(what: Machine, load: Load) -> dict[str, object]:
    """Return the load client's settings."""
    return {
        "port": what.port,
        "subs": load.subscribers,
        "channels": load.channels,
        "pubs": PUBLISHERS,
        "inflight": CONNECTING,
        **what.side.client,
    }


def warnings_in(log: Path) -> dict[str, int]:
    """Count the lines of a log that are warnings or worse, by what they say; those of other programs by their words."""
    counts: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for line in _lines(log):
            counts[line] += 1
    return dict(counts.most_common(20))


def _lines(log: Path) -> Iterator[str]:
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if '"level":"info"' in line or '"level":"debug"' in line:
                continue
            with contextlib.suppress(ValueError, TypeError):
                entry: dict[str, Any] = json.loads(line)
                yield f"{entry.get('level')} {entry.get('event')}"


def _abide_environment(folder: Path, url: str, load: Load) -> dict[str, str]:
    channels = folder / "channels.yaml"
    channels.write_text(CHANNELS, encoding="utf-8")
    return {
        "HOST": "127.0.0.1",
        "CHANNELS_CONFIG": str(channels),
        "BACKEND": url or "memory://",
        "PUSH_KEYS": KEY,
        "WEB_CONCURRENCY": str(WORKERS if url else 1),
        "DRAIN_SECONDS": str(load.drain_seconds),
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "info",
    }


def _blog(_: Path, port: int) -> list[str]:
    options = ["--port", str(port), "--workers", str(WORKERS), "--ws-per-message-deflate", "false"]
    return [sys.executable, "-m", "uvicorn", "benchmarks.peers.blog:app", *options]


_ABIDE = Side(
    "abide",
    "Abide",
    lambda _, port: [sys.executable, "-m", "app", "serve", "--port", str(port)],
    {
        "path": "/m.@C",
        "push": "/push",
        "body": '{"channel":"m.@C","message":{"n":@N,"t":@T,"p":"@P"}}',
        "header": f"Authorization: Bearer {KEY}",
        "streams": 1,
        "resume": 1,
        "repeat": 1,
    },
    environment=_abide_environment,
    health="/health/ready",
)

SIDES = {
    "abide": _ABIDE,
    "blog": Side(
        "blog",
        "FastAPI + broadcaster",
        _blog,
        {
            "path": "/m.@C",
            "push": "/push",
            "body": r'{"channel":"m.@C","message":"{\"n\":@N,\"t\":@T,\"p\":\"@P\"}"}',
        },
        environment=lambda _folder, url, _load: {"BROADCAST_URL": url},
    ),
    "nchan": Side(
        "nchan",
        "nginx + nchan",
        lambda folder, port: nginx.command(folder, port, machine.raise_file_limit()),
        {"path": "/m.@C", "push": "/push/m.@C", "streams": 1},
        database=False,
        absence=nginx.absence,
    ),
}
"""All that are compared. The peers resume nothing and have no keys. nchan has event streams, too, and no database."""


@dataclass(frozen=True, slots=True)
class Idle:
    """What idle subscribers cost: bytes, when all have been pinged."""

    subscribers: int
    live: int
    seconds: float
    """Until all were live."""
    rss: int
    """Of all processes; what they share counts in each."""
    before: int
    """The same without a subscriber."""
    kernel: int
    sockets: int
    anon: int
    limit: str


def idle(binary: Path, count: int, seconds: float) -> Idle:
    """Open so many subscribers on ``memory://``, half of them event streams, and wait. Raises :class:`PeerError`."""
    load = Load(count, 1, 10)
    with MemoryGroup(None) as group, Machine(replace(_ABIDE, database=False), group, load) as what:
        before = what.rss()
        settings = client_settings(what, load) | {"inflight": CONNECTING // 2}
        with Followers(binary, settings) as client:
            began = time.monotonic()
            client.connect(_CONNECT_SECONDS)
            opened = time.monotonic() - began
            tell(f"idle: {count:,} subscribers after {opened:.1f} s; now {seconds:.0f} s of rest")
            time.sleep(seconds)
            live, usage = int(client.look()["live"]), group.look()
            kernel, sockets, anon = (usage.kernel, usage.sockets, usage.anon) if usage else (0, 0, 0)
            return Idle(count, live, opened, what.rss(), before, kernel, sockets, anon, group.kind)
