"""What is checked at start holds afterwards: for every signal, and for whatever else gunicorn is told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import ServerFactory
from tests.support.processes import ROOT
from tests.support.server import Server

CHANNELS = "channels: {lebowski: {publish: anyone}}\n"


def children(server: Server) -> set[int]:
    """Return the processes that the master has started."""
    return set(map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()))


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, for ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"there is no {what}"
        time.sleep(0.02)


def push(server: Server, text: str) -> str:
    """Publish and return the position."""
    answer = httpx.post(f"{server.url}/push", json={"channel": "lebowski", "message": text}, timeout=10)
    assert answer.status_code == 200, answer.text
    position: str = answer.json()["position"]
    return position


def told(server: Server, name: str) -> str:
    """Return what the log says of a signal that has no effect."""
    line = server.wait_log(lambda line: line["event"].startswith(f"{name} has no effect: "))
    assert line["level"] == "warning"
    event: str = line["event"]
    return event


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the master", "to all"])
def test_no_signal_gives_memory_a_second_log(server_factory: ServerFactory, send: Callable[[int, int], None]) -> None:
    """Signals that would start another worker or master on memory://, or end the last worker, only write a line."""
    server = server_factory(channels=CHANNELS)
    (worker,) = children(server)
    with connect(f"{server.ws_url}/lebowski") as subscriber:
        send(server.pid, signal.SIGTTIN)
        assert "DATABASE_URL" in told(server, "TTIN")
        send(server.pid, signal.SIGUSR2)
        assert "start a new process" in told(server, "USR2")
        send(server.pid, signal.SIGTTOU)
        assert "only one worker" in told(server, "TTOU")
        send(server.pid, signal.SIGWINCH)
        send(server.pid, signal.SIGUSR1)
        server.wait_log(lambda line: line["event"] == "Handling signal: usr1")
        for number in range(20):
            push(server, f"{number}")
            assert subscriber.recv(timeout=5) == f'"{number}"'
    assert children(server) == {worker}
    assert server.stop() == 0
    assert "Traceback" not in server.text()
    assert "winch" not in server.text()


def test_a_hangup_ends_the_log_of_memory_before_another_begins(server_factory: ServerFactory) -> None:
    """Server on memory:// that is sent SIGHUP closes its subscribers at once, and answers from one new log."""
    server = server_factory(channels=CHANNELS, env={"DRAIN_SECONDS": "15"})
    (old,) = children(server)
    before = push(server, "before")
    with connect(f"{server.ws_url}/lebowski") as subscriber:
        server.write_channels("backend: postgres://nobody@127.0.0.1:1/none\n" + CHANNELS)
        server.send_signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as closed:
            subscriber.recv(timeout=5)
        after = push(server, "after")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert after.split(":")[0] != before.split(":")[0]
    until(lambda: children(server).isdisjoint({old}) and len(children(server)) == 1, "one new worker")
    booted = server.wait_log(lambda line: line["event"].startswith("Booting worker") and line["pid"] != old)
    ended = server.wait_log(lambda line: line["event"].startswith("Finished") and line["pid"] == old)
    assert ended["timestamp"] < booted["timestamp"]
    assert server.stop() == 0
    assert "Traceback" not in server.text()


def test_workers_that_share_postgres_come_and_go_by_signals(server_factory: ServerFactory, database_url: str) -> None:
    """Server on Postgres has as many workers as GUNICORN_CMD_ARGS says, one more by TTIN, and no new master by USR2."""
    env = {"DATABASE_URL": database_url, "GUNICORN_CMD_ARGS": "--workers=2"}
    server = server_factory(channels="backend: ${DATABASE_URL}\n" + CHANNELS, env=env)
    until(lambda: len(children(server)) == 2, "second worker")
    server.send_signal(signal.SIGUSR2)
    assert "start a new process" in told(server, "USR2")
    server.send_signal(signal.SIGTTIN)
    until(lambda: len(children(server)) == 3, "third worker")
    server.write_channels("backend: memory://\n" + CHANNELS)
    old = children(server)
    server.send_signal(signal.SIGHUP)
    until(lambda: len(children(server)) == 3 and children(server).isdisjoint(old), "three new workers")
    with connect(f"{server.ws_url}/lebowski") as subscriber:
        for number in range(10):
            push(server, f"{number}")
            assert subscriber.recv(timeout=5) == f'"{number}"'
    server.send_signal(signal.SIGTTOU)
    until(lambda: len(children(server)) == 2, "end of the third worker")
    assert server.stop() == 0
    assert "Traceback" not in server.text()


def test_a_worker_that_is_taken_away_drains(server_factory: ServerFactory, database_url: str) -> None:
    """Worker that SIGTTOU takes away closes its subscribers over all of DRAIN_SECONDS, as at a stop."""
    env = {"DATABASE_URL": database_url, "DRAIN_SECONDS": "5"}
    server = server_factory(channels="backend: ${DATABASE_URL}\n" + CHANNELS, env=env)
    (old,) = children(server)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(f"{server.ws_url}/lebowski"))
        server.send_signal(signal.SIGTTIN)
        until(lambda: len(children(server)) == 2, "second worker")
        server.send_signal(signal.SIGTTOU)
        begun = server.wait_log(lambda line: line["event"].startswith("Draining") and line["pid"] == old)
        ended = server.wait_log(lambda line: line["event"].startswith("Finished") and line["pid"] == old)
    times = [datetime.fromisoformat(line["timestamp"]) for line in (begun, ended)]
    assert (times[1] - times[0]).total_seconds() > 4.5
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--workers=2", "--workers: 2 workers cannot share memory://"),
        ("--daemon", "--daemon: Abide does not take this option of gunicorn's: let a supervisor"),
    ],
)
def test_what_gunicorn_is_told_besides_is_checked_too(given: str, expected: str) -> None:
    """Server does not start with options of gunicorn's that would undo what it checks, and says why in one line."""
    server = Server(channels=CHANNELS, env={"GUNICORN_CMD_ARGS": given})
    server.launch()
    assert server.wait() == 1
    (line,) = server.stderr
    assert line.startswith(f"GUNICORN_CMD_ARGS: {expected}")
    assert server.log == []


def test_an_application_without_its_gunicorn_checks_its_workers() -> None:
    """Application that another server starts for WEB_CONCURRENCY=2, as uvicorn does, refuses what gunicorn's would."""
    code = "from app.main import create_app; create_app()"
    env = os.environ | {"WEB_CONCURRENCY": "2", "DATABASE_URL": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WEB_CONCURRENCY: 2 workers cannot share memory://" in done.stderr


@pytest.mark.parametrize(
    ("host", "variable", "reason"),
    [
        ("127.0.0.1", "PORT", "Address already in use: stop what listens there, or set another port"),
        ("192.0.2.1", "HOST", "Cannot assign requested address"),
        ("nobody.invalid", "HOST", ""),
    ],
)
def test_who_cannot_listen_says_so_at_once(host: str, variable: str, reason: str) -> None:
    """Server whose port is in use, or whose host is none of this machine, ends with one line that names both."""
    server = Server(channels=CHANNELS, env={"HOST": host})
    with socket.create_server(("127.0.0.1", server.port)):
        server.launch()
        assert server.wait() == 1
    (line,) = server.stderr
    assert line.startswith(f"{variable}: cannot listen on {host}:{server.port}: {reason}")
    assert len(server.log) <= 2  # gunicorn writes two lines for each of its five tries, one a second
