"""The servers that are compared, each as its users run it: one process, one core, the memory of that process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import machine, nginx
from tests.support.processes import end, free_port, launch, wait_answer

KEY = "a-key-of-the-benchmark"

CHANNELS = """\
backend: memory://
auth: {keys: "${PUSH_KEYS}"}
defaults: {publish: key}
channels:
  lebowski: {publish: anyone}
  orders: {}
  "bench.{number}": {}
"""
"""Ours checks a key on every push and keeps a history, as the shipped configuration does."""

_SERVER_CORE = 0


class PeerError(RuntimeError):
    """A server did not start."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is to run."""

    folder: Path
    port: int
    push_port: int


@dataclass(frozen=True, slots=True)
class Peer:
    """One kind of server: ``settings`` are the load client's for it."""

    name: str
    title: str
    command: Callable[[Place], list[str]]
    settings: Mapping[str, object]
    environment: Callable[[Place], dict[str, str]] = lambda _: {}
    absence: Callable[[], str | None] = lambda: None
    two_ports: bool = False


@dataclass(slots=True)
class Server:
    """A running server."""

    peer: Peer
    place: Place
    pid: int
    pids: list[int] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, object]:
        """The load client's settings for it."""
        push_port = self.place.push_port if self.peer.two_ports else 0
        return {"port": self.place.port, "push_port": push_port, **self.peer.settings}

    def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        return machine.cpu_seconds(self.pids)

    def rss(self) -> int:
        """Return its bytes in RAM."""
        return machine.resident(self.pids)


@contextlib.contextmanager
def serving(peer: Peer) -> Iterator[Server]:
    """Start a server, and end it with all its processes. Raises :class:`PeerError`."""
    with tempfile.TemporaryDirectory(prefix="abide-bench-") as name, tempfile.TemporaryFile("w+") as stderr:
        place = Place(Path(name), free_port(), free_port())
        environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **peer.environment(place)}
        with machine.pinned(_SERVER_CORE):
            # The logs are written, and nobody keeps them.
            process = launch(peer.command(place), environment, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            # Any answer shows that a worker is there.
            if not wait_answer(process, place.port, "/health/live", any_status=True):
                stderr.seek(0)
                msg = f"{peer.name} does not answer; it said: {stderr.read()[-2000:] or 'nothing'}"
                raise PeerError(msg)
            yield Server(peer, place, process.pid, machine.family(process.pid))
        finally:
            end(process)


def present(peers: Mapping[str, Peer]) -> tuple[list[Peer], list[str]]:
    """Return the peers that can run here, and a sentence for each that cannot."""
    reasons = {name: peer.absence() for name, peer in peers.items()}
    absent = [f"{peers[name].title} was not measured: {reason}." for name, reason in reasons.items() if reason]
    return [peer for name, peer in peers.items() if not reasons[name]], absent


def _abide_environment(place: Place) -> dict[str, str]:
    channels = place.folder / "channels.yaml"
    channels.write_text(CHANNELS, encoding="utf-8")
    return {
        "HOST": "127.0.0.1",
        "PORT": str(place.port),
        "CHANNELS_CONFIG": str(channels),
        "PUSH_KEYS": KEY,
        "WEB_CONCURRENCY": "1",
        "DRAIN_SECONDS": "0",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "info",
    }


def _uvicorn(application: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        options = ["--port", str(place.port), "--ws-per-message-deflate", "false"]
        return [sys.executable, "-m", "uvicorn", application, *options]

    return command


def _broadcast(place: Place) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.broadcast", str(place.port), str(place.push_port)]


def _nchan(place: Place) -> list[str]:
    files = machine.raise_file_limit() + machine.RESERVED_FILES
    return nginx.command(place.folder, place.port, files)


def _without_litestar() -> str | None:
    return None if importlib.util.find_spec("litestar") else "the package litestar is not installed"


_NAMED = {"path": "/bench.@C", "push": "/push/bench.@C"}
_ENVELOPE = {"path": "/bench.@C", "push": "/push"}

PEERS = {
    "abide": Peer(
        "abide",
        "Abide",
        lambda _: [sys.executable, "-m", "app", "serve"],
        {
            **_ENVELOPE,
            "body": '{"channel":"bench.@C","message":{"n":@N,"p":"@P"}}',
            "header": f"Authorization: Bearer {KEY}",
        },
        _abide_environment,
    ),
    "blog": Peer(
        "blog",
        "FastAPI + broadcaster",
        _uvicorn("benchmarks.peers.blog:app"),
        {**_ENVELOPE, "body": r'{"channel":"bench.@C","message":"{\"n\":@N,\"p\":\"@P\"}"}'},
    ),
    "websockets": Peer(
        "websockets",
        "websockets broadcast()",
        _broadcast,
        {**_NAMED, "path": "/push/bench.@C", "body": '{"n":@N,"p":"@P"}'},
        two_ports=True,
    ),
    "litestar": Peer(
        "litestar",
        "Litestar channels",
        _uvicorn("benchmarks.peers.litestar_channels:app"),
        {**_NAMED, "body": '{"n":@N,"p":"@P"}'},
        absence=_without_litestar,
    ),
    "nchan": Peer("nchan", "nginx + nchan", _nchan, {**_NAMED, "body": '{"n":@N,"p":"@P"}'}, absence=nginx.absence),
}
