"""A rolling restart in its steps, and what workers share in memory: a server with two workers, on Postgres."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from tests.support.local import wait_for
from tests.support.postgres import PostgresServer, children
from tests.support.server import LogLine, Server

CHANNELS = """\
backend: ${DATABASE_URL}
channels: {lebowski: {publish: anyone}}
"""

STEPS = {"Booting worker": "boots", "Application startup": "serves", "Shutting down": "drains", "Finished": "has ended"}
"""The beginnings of log lines, and what the worker that writes one does."""


@pytest.fixture(scope="module")
def server(postgres: PostgresServer, template: str) -> Iterator[Server]:
    """Start a server with two workers."""
    url = postgres.url(asyncio.run(postgres.create_database(template)))
    with Server(channels=CHANNELS, env={"DATABASE_URL": url, "WEB_CONCURRENCY": "2"}) as server:
        wait_for_steps(server, ["boots", "serves"] * 2)
        yield server


def steps(server: Server) -> list[tuple[str, int]]:
    """Return what workers have done so far, and their pids."""
    return [(done, line["pid"]) for line in list(server.log) for text, done in STEPS.items() if is_told(line, text)]


def is_told(line: LogLine, text: str) -> bool:
    """Tell whether a line begins so, and is not of the master."""
    return str(line["event"]).startswith(text) and not str(line["event"]).startswith("Shutting down: Master")


def wait_for_steps(server: Server, expected: list[str]) -> None:
    """Wait until so many steps were done, and as often each."""
    server.wait_log(lambda _: sorted(done for done, _ in steps(server)) == sorted(expected), timeout=30)


def libraries(pid: int) -> set[str]:
    """Return the files of code that a process has in memory."""
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if ".so" in line}


def kib(pid: int, what: str) -> int:
    """Return a number of a process's memory, as the kernel names it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def test_workers_share_what_the_master_has_imported(server: Server) -> None:
    """Worker shares more than half of its memory with others, and loads no library that the master has not loaded."""
    for worker in children(server.pid):
        assert libraries(worker) <= libraries(server.pid)
        assert kib(worker, "Private_Dirty") < kib(worker, "Anonymous") / 2


def test_workers_are_replaced_one_after_another(server: Server) -> None:
    """Master starts a new worker, lets an old one drain once the new one serves, and only then starts the next."""
    old = set(children(server.pid))
    begun = len(steps(server))
    server.send_signal(signal.SIGHUP)
    wait_for_steps(server, ["boots", "serves"] * 4 + ["drains", "has ended"] * 2)
    seen = [f"{'old' if pid in old else 'new'} {done}" for done, pid in steps(server)[begun:]]
    assert seen == ["new boots", "new serves", "old drains", "old has ended"] * 2
    wait_for(lambda: len(children(server.pid)) == 2)


def test_a_hangup_during_another_replaces_those_workers_too(server: Server) -> None:
    """Master that is told twice replaces the workers of the first time, too, and never has more than one besides."""
    begun = len(steps(server))
    server.send_signal(signal.SIGHUP)
    wait_for(lambda: any(done == "boots" for done, _ in steps(server)[begun:]))
    old = {pid for _, pid in steps(server)}
    server.send_signal(signal.SIGHUP)
    wait_for(lambda: len(children(server.pid)) == 2 and old.isdisjoint(children(server.pid)), timeout=30)
    events = [line["event"] for line in server.log]
    counts = accumulate(event.startswith("Booting worker") - event.startswith("Worker (pid:") for event in events)
    assert max(counts) == 3
