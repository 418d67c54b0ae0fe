"""The attacked server, and the attackers in their own process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.peers import machine
from benchmarks.peers.servers import PEERS, Place, Server, serving
from tests.support.attackers import CHANNELS, Attackers, fill
from tests.support.attacks import ATTACKS
from tests.support.metrics import scrape

_ATTACKERS_CORE = 1
_POLITE = 10
"""The niceness of the attackers' process, which shares a core with the measuring process."""

_END_SECONDS = 60.0
_RESET_PEAK = "5"


def _environment(place: Place) -> dict[str, str]:
    channels = place.folder / "channels.yaml"
    environment = PEERS["abide"].environment(place)
    channels.write_text(CHANNELS, encoding="utf-8")
    return environment


_ABIDE = replace(PEERS["abide"], environment=_environment)


class Victim:
    """A running server with one worker, its log filled."""

    def __init__(self, server: Server) -> None:
        self.port = server.place.port
        self._master = server.pid
        self.worker = self._workers()[0]
        """The process id of the worker that it began with."""

    def is_unharmed(self) -> bool:
        """Whether the first worker still runs."""
        return self._workers() == [self.worker]

    def rss(self) -> int:
        """Return the bytes that the worker has in RAM."""
        return machine.resident([self.worker])

    def scheduled(self) -> tuple[float, float]:
        """Return the seconds in which it ran, and in which it waited for a core; None if it is gone."""
        try:
            ran, waited, _ = Path(f"/proc/{self.worker}/schedstat").read_text(encoding="ascii").split()
        except OSError:
            return 0.0, 0.0
        return int(ran) / 1e9, int(waited) / 1e9

    def begin_peak(self) -> None:
        """Reset the peak of its RAM."""
        Path(f"/proc/{self.worker}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")

    def peak(self) -> int:
        """Return the peak of its RAM in bytes."""
        lines = Path(f"/proc/{self.worker}/status").read_text(encoding="utf-8").splitlines()
        (kib,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        return kib * 1024

    def sockets(self) -> int:
        """Return how many sockets the worker has open."""
        found = 0
        for entry in Path(f"/proc/{self.worker}/fd").iterdir():
            with contextlib.suppress(OSError):  # it was closed meanwhile
                found += str(entry.readlink()).startswith("socket:")
        return found

    def metrics(self) -> dict[str, float]:
        """Return its metrics."""
        return scrape(f"http://127.0.0.1:{self.port}")

    def _workers(self) -> list[int]:
        return [pid for pid in machine.family(self._master) if pid != self._master]


@contextlib.contextmanager
def victim() -> Iterator[Victim]:
    """Start a server for the attacks."""
    with serving(_ABIDE) as server:
        fill(server.place.port)
        yield Victim(server)


class Gang:
    """Attackers in their own process; they are ready when this is made."""

    def __init__(self, name: str, port: int, count: int, *, relentless: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_attack, args=(theirs, name, port, count, relentless), daemon=True)
        with machine.pinned(_ATTACKERS_CORE):
            self._process.start()
        theirs.close()
        self._pipe.recv()

    def attack(self) -> None:
        """Begin."""
        self._pipe.send(None)

    def leave(self) -> tuple[int, int]:
        """End the process; return the number of attacks, and the bytes that they sent."""
        self._pipe.send(None)
        if not self._pipe.poll(_END_SECONDS):
            self._process.kill()
            return 0, 0
        times, sent = self._pipe.recv()
        self._process.join()
        return times, sent


def _attack(pipe: Connection, name: str, port: int, count: int, relentless: bool) -> None:  # noqa: FBT001 — across processes
    os.nice(_POLITE)
    machine.raise_file_limit()
    sys.setswitchinterval(0.001)
    attackers = Attackers(ATTACKS[name], port, count, relentless=relentless)
    pipe.send(None)
    pipe.recv()
    with attackers:
        pipe.recv()
    pipe.send((attackers.times, attackers.sent))
