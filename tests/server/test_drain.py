"""The drain: who is told to go, when, and what is still answered meanwhile."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from app.server.drain import spread
from app.server.lasting.limits import Limits, Timeouts
from app.server.lasting.sweep import Sweep
from app.server.worker import AbideWorker
from tests.conftest import ServerFactory
from tests.server.test_worker import GUNICORN
from tests.support.server import Server
from tests.support.wire import Wire

LONG = "600"
"""Seconds of a window that no test waits for."""


class Connection:
    """Notes when it was told, by the clock of the test."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.told: list[float] = []

    def shutdown(self) -> None:
        self.told.append(self.clock.now)


class Clock:
    """Goes on by a twentieth of a second at each step, and then calls ``then``."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.now = 0.0
        self.then = then

    async def step(self) -> float:
        self.now += 0.05
        self.then()
        return self.now


async def test_a_drain_tells_everybody_once_and_evenly() -> None:
    """Drain tells everybody once, the first at once, and no more in any part of the window than in another."""
    clock = Clock()
    connections = [Connection(clock) for _ in range(1000)]
    await spread(connections, connections, lambda: 2.0, clock.step)
    times = sorted(time for connection in connections for time in connection.told)
    assert len(times) == len(connections)
    assert times[0] == 0.0
    assert 1.9 < times[-1] < 2.05
    assert max(times.count(time) for time in times) <= 26


async def test_a_drain_without_a_window_tells_all_at_once() -> None:
    """Drain without a window tells all at once, and waits for nothing."""
    clock = Clock()
    connections = [Connection(clock) for _ in range(10)]
    await spread(connections, connections, lambda: 0.0, clock.step)
    assert [connection.told for connection in connections] == [[0.0]] * 10
    assert clock.now == 0.0


async def test_a_drain_ends_when_everybody_has_left() -> None:
    """Drain ends as soon as everybody has left, and tells nobody who has."""
    connections: set[Connection] = set()
    clock = Clock(connections.clear)
    everybody = [Connection(clock) for _ in range(10)]
    connections.update(everybody)
    await spread(everybody, connections, lambda: 60.0, clock.step)
    assert sum(len(connection.told) for connection in everybody) == 1
    assert clock.now == 0.05


async def test_a_drain_tells_all_at_once_when_its_window_shrinks() -> None:
    """Drain tells all who are left at once when its window shrinks."""
    clock = Clock()
    connections = [Connection(clock) for _ in range(10)]
    await spread(connections, connections, lambda: 60.0 if clock.now < 0.1 else 0.0, clock.step)
    assert sorted(connection.told for connection in connections) == [[0.0]] + [[0.1]] * 9


@contextmanager
def subscribed(server: Server, count: int) -> Iterator[list[ClientConnection]]:
    """Open WebSockets."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(f"{server.ws_url}/news")) for _ in range(count)]


@contextmanager
def kept_alive(server: Server) -> Iterator[http.client.HTTPConnection]:
    """Open an HTTP connection that has had one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/health/ready")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (200, None)
    answer.read()
    yield connection
    connection.close()


def closed(subscriber: ClientConnection, *, timeout: float = 10) -> float:
    """Return when a WebSocket was closed with 1012."""
    with pytest.raises(ConnectionClosed) as error:
        subscriber.recv(timeout=timeout)
    assert error.value.rcvd is not None
    assert error.value.rcvd.code == 1012
    return time.monotonic()


def begin_drain(server: Server) -> None:
    """Send SIGTERM and return when the worker has begun; a WebSocket must be open."""
    server.send_signal(signal.SIGTERM)
    server.wait_log(lambda line: line["event"].startswith("Draining"))


def assert_nothing_wrong(server: Server) -> None:
    assert {line["level"] for line in server.log} <= {"info", "warning"}
    assert not [line for line in server.log if line["level"] == "warning" and line["event"] != "config_warning"]


def test_a_draining_server_says_that_it_is_not_ready(server_factory: ServerFactory) -> None:
    """Server that drains tells probes on open connections that it is not ready, and takes no new ones."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with kept_alive(server) as connection, subscribed(server, 2):
        begin_drain(server)
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (503, "close")
        body = json.load(answer)
        assert (body["ready"], body["reasons"]) == (False, ["draining"])
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health/live")


def test_a_draining_server_still_publishes(server_factory: ServerFactory) -> None:
    """Server that drains still publishes what comes on open connections, and closes them after the answer."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with kept_alive(server) as connection, subscribed(server, 2) as subscribers:
        begin_drain(server)
        connection.request("POST", "/push/news", b"1", {"content-type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        received: list[str | bytes | None] = []
        for subscriber in subscribers:
            try:
                received.append(subscriber.recv(timeout=20))
            except ConnectionClosed:
                received.append(None)
    assert sorted(received, key=str) == ["1", None]


def test_a_draining_server_refuses_websockets(server_factory: ServerFactory) -> None:
    """Server that drains refuses a WebSocket on an open connection with 503, for its peer to try elsewhere."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with kept_alive(server) as connection, subscribed(server, 2):
        begin_drain(server)
        headers = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        connection.request("GET", "/news", headers=headers | {"Connection": "Upgrade", "Upgrade": "websocket"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers.get_all("connection")) == (503, ["close"])
        assert answer.getheader("retry-after") == "1"


def test_a_draining_server_takes_the_rest_of_a_body(server_factory: ServerFactory) -> None:
    """Server that drains takes the rest of a body, and answers."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with kept_alive(server) as connection, subscribed(server, 2):
        connection.putrequest("POST", "/push/news")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "4")
        connection.endheaders(b'"a')
        begin_drain(server)
        connection.send(b'b"')
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")


def test_a_stopping_server_gives_up_a_body_that_stalls(server_factory: ServerFactory) -> None:
    """Server that stops gives up a body whose rest does not come, ends by itself, and calls nothing an error."""
    server = server_factory()
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        head = b"POST /push/news HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n"
        link.sendall(head + b"expect: 100-continue\r\n\r\n")
        assert link.recv(100).startswith(b"HTTP/1.1 100")
        assert server.stop() == 0
    told = [line.get("status") or line["event"].partition(" [")[0] for line in server.log]
    assert told.index(400) < told.index("Finished server process")  # which a worker that is killed does not say
    assert_nothing_wrong(server)


def test_a_stopping_server_does_not_wait_for_mute_peers(server_factory: ServerFactory) -> None:
    """Server that stops does not wait long for peers that don't answer its close."""
    server = server_factory()
    with Wire.open(server.port, "/news"):
        assert server.stop(timeout=8) == 0
    assert_nothing_wrong(server)


def test_a_server_without_sockets_ends_at_once(server_factory: ServerFactory) -> None:
    """Server without sockets ends at once, whatever its window and its idle connections."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with kept_alive(server):
        assert server.stop(timeout=5) == 0


def test_a_drain_ends_when_the_last_socket_leaves(server_factory: ServerFactory) -> None:
    """Server that drains ends when the last socket has gone by itself."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with subscribed(server, 3):
        begin_drain(server)
    assert server.wait(timeout=5) == 0
    assert_nothing_wrong(server)


def test_a_drain_ends_streams_as_responses_end(server_factory: ServerFactory) -> None:
    """Server that drains ends event streams and long-polls as responses end, so that they come back."""
    server = server_factory(env={"DRAIN_SECONDS": "1"})
    with httpx.Client(base_url=server.url) as reader, ExitStack() as stack:
        streams = [
            stack.enter_context(reader.stream("GET", path, headers={"accept": "text/event-stream"}, timeout=10))
            for path in ["/news"] * 3
        ]
        polling = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        polling.request("GET", "/news/history?wait=60")
        begin_drain(server)
        for stream in streams:
            assert stream.read().startswith(b"retry: ")
        answer = polling.getresponse()
        assert answer.status == 200
        assert json.load(answer)["messages"] == []
        assert server.wait(timeout=5) == 0
    assert_nothing_wrong(server)


def test_a_quick_stop_ends_a_drain_at_once(server_factory: ServerFactory) -> None:
    """Server that drains ends at once on SIGINT, and tells everybody."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with subscribed(server, 5) as subscribers:
        begin_drain(server)
        server.send_signal(signal.SIGINT)
        for subscriber in subscribers:
            closed(subscriber, timeout=5)
    assert server.wait(timeout=5) == 0
    assert_nothing_wrong(server)


def test_a_signal_to_all_processes_drains_once(server_factory: ServerFactory) -> None:
    """Worker that has SIGTERM twice at once, from systemd and from the master, drains; another one later ends it."""
    server = server_factory(env={"DRAIN_SECONDS": LONG})
    with subscribed(server, 5) as subscribers:
        os.killpg(server.pid, signal.SIGTERM)
        worker = server.wait_log(lambda line: line["event"].startswith("Draining"))["pid"]
        begun = time.monotonic()
        while time.monotonic() - begun < 2.5:  # longer than two signals may be apart and mean the same
            open_ones = [subscriber for subscriber in subscribers if subscriber.close_code is None]
            assert len(open_ones) >= 4
            with suppress(ConnectionClosed):  # it may be the one whose turn comes
                open_ones[0].ping().wait(0.2)
            time.sleep(0.05)  # a peer that pings without a pause is refused
        os.kill(worker, signal.SIGTERM)
        for subscriber in subscribers:
            closed(subscriber, timeout=5)
    assert server.wait(timeout=5) == 0


def test_a_worker_that_drains_is_not_taken_for_one_that_hangs(server_factory: ServerFactory) -> None:
    """Worker that drains longer than gunicorn's timeout is not taken for one that hangs."""
    command = (*GUNICORN, "--timeout", "2")
    server = server_factory(command=command, env={"DRAIN_SECONDS": "5"})
    with subscribed(server, 20) as subscribers:
        server.send_signal(signal.SIGHUP)
        for subscriber in subscribers:
            closed(subscriber)
    server.wait_log(lambda line: line["event"].startswith("Finished"))
    assert "WORKER TIMEOUT" not in server.text(last=1000)


async def test_connections_end_at_ages_spread_below_the_greatest() -> None:
    """Connections end at ages from 80 to 100 percent of the greatest, spread over all of that."""
    settings = {name: value for name, value in AbideWorker.CONFIG_KWARGS.items() if name.startswith("ws")}
    interval, timeout = settings["ws_ping_interval"], settings["ws_ping_timeout"]
    timeouts = Timeouts(interval, timeout, handshake=10, closing=10)
    limits = Limits(timeouts, Sweep(asyncio.get_running_loop(), (), timeouts.shortest / 2))
    assert not limits.is_due(10**9)
    limits.limit_age(3600)
    ages = [next(age for age in range(1000) if limits.is_due(age)) * 5 for _ in range(2000)]
    assert min(ages) >= 2880
    assert max(ages) <= 3600
    assert len(set(ages)) > 100
    assert max(ages.count(age) for age in set(ages)) < 60
    limits.limit_age(1)
    assert limits.is_due(1)


def test_connections_that_are_too_old_end_and_may_come_back(server_factory: ServerFactory) -> None:
    """Server ends WebSockets and event streams that have become too old, and serves them when they come back."""
    server = server_factory(env={"MAX_CONNECTION_AGE": "1"})
    with connect(f"{server.ws_url}/news") as websocket, httpx.Client(base_url=server.url, timeout=20) as reader:
        with reader.stream("GET", "/news", headers={"accept": "text/event-stream"}) as stream:
            assert stream.read().startswith(b"retry: ")
        with pytest.raises(ConnectionClosed) as error:
            websocket.recv(timeout=10)
        assert error.value.rcvd is not None
        assert (error.value.rcvd.code, error.value.rcvd.reason[:14]) == (1012, "the connection")
    with subscribed(server, 1) as (again,):
        again.ping().wait(5)
