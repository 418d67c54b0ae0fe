"""Whatever strangers send, others are served: twenty attackers of each kind, on one server."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.peers.machine import family, resident
from tests.support.attackers import CHANNELS, Attack, Attackers, fill
from tests.support.attacks import ATTACKS
from tests.support.server import SERVE, Server

MIB = 1024 * 1024

COUNT = 20
"""Attackers of each kind."""

FAST = [attack for attack in ATTACKS.values() if not attack.name.startswith("slow-")]
"""Those that do not need time for what they do."""

_PUSHES = 5
_PATIENCE = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(channels=CHANNELS) as server:
        fill(server.port)
        yield server


@pytest.fixture(scope="module")
def worker(server: Server) -> int:
    return workers(server)[0]


def workers(server: Server) -> list[int]:
    """Return the process ids of its workers."""
    return [pid for pid in family(server.pid) if pid != server.pid]


def push(server: Server) -> int:
    """Push 128 bytes on a connection of their own; return the status."""
    return httpx.post(f"{server.url}/push/probe", json="x" * 126, timeout=_PATIENCE).status_code


def wait_for_all(attackers: Attackers) -> None:
    """Wait until as many attackers have begun, and something was sent."""
    deadline = time.monotonic() + _PATIENCE
    while attackers.times < COUNT or not attackers.sent:
        assert time.monotonic() < deadline, "the attackers do not begin"
        time.sleep(0.01)


@pytest.mark.parametrize("attack", FAST, ids=[attack.name for attack in FAST])
def test_others_are_served_during_an_attack(server: Server, worker: int, attack: Attack) -> None:
    """Server answers small pushes with 200 during an attack, stays under 256 MiB, and goes on after it."""
    with Attackers(attack, server.port, COUNT) as attackers:
        wait_for_all(attackers)
        assert [push(server) for _ in range(_PUSHES)] == [200] * _PUSHES
        assert resident([worker]) < 256 * MIB
    assert httpx.get(f"{server.url}/health/live", timeout=_PATIENCE).status_code == 200
    assert workers(server) == [worker]


def test_no_attack_has_found_a_bug(server: Server) -> None:
    """Server has logged no failed connection and no traceback; run last, on the server of all attacks."""
    assert [line for line in server.log if line.get("event") == "connection_failed"] == []
    assert "Traceback" not in server.text()


def test_a_server_without_descriptors_goes_on() -> None:
    """Server that may open few files serves everybody who sends a request, and makes room by those who send nothing."""
    limited = ("sh", "-c", 'ulimit -n 120 && exec "$@"', "sh", *SERVE)
    with Server(channels=CHANNELS, command=limited) as server, contextlib.ExitStack() as crowd:
        early = crowd.enter_context(httpx.Client(base_url=server.url, timeout=_PATIENCE))
        assert early.post("/push/probe", json=1).status_code == 200
        silent = [
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE))
            for _ in range(200)
        ]
        assert silent[0].recv(65536).startswith(b"HTTP/1.1 503 ")
        assert early.post("/push/probe", json=2).status_code == 200
        assert push(server) == 200


def test_a_server_with_as_many_subscribers_as_files_refuses_in_words() -> None:
    """Server whose files are used up by subscribers answers one more with 503 and when to try again, and counts it."""
    limited = ("sh", "-c", 'ulimit -n 120 && exec "$@"', "sh", *SERVE)
    with Server(channels=CHANNELS, command=limited) as server, contextlib.ExitStack() as crowd:
        early = crowd.enter_context(httpx.Client(base_url=server.url, timeout=_PATIENCE))
        assert early.post("/push/probe", json=1).status_code == 200
        heads = [subscribe(server, crowd) for _ in range(120)]
        assert heads[0].startswith(b"HTTP/1.1 200 ")
        assert heads[-1].startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in heads[-1]
        assert 'abide_limited_total{limit="open_files"}' in early.get("/metrics").text
        assert early.post("/push/probe", json=2).status_code == 200


def subscribe(server: Server, crowd: contextlib.ExitStack) -> bytes:
    """Open an event stream that ends with ``crowd``; return what is answered first."""
    wire = crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE))
    wire.sendall(b"GET /probe HTTP/1.1\r\nHost: abide\r\nAccept: text/event-stream\r\n\r\n")
    return wire.recv(65536)
