"""The numbers of two workers on Postgres, as Prometheus sees them, are exact."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.bus.postgres import migrate
from tests.conftest import ServerFactory
from tests.support.metrics import expect, scrape, settled
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port
from tests.support.server import Server
from tests.support.wire import TEXT, Wire

CHANNELS = """\
backend: ${DATABASE_URL}
channels:
  news: {publish: anyone}
  orders: {publish: anyone, max_message_size: 1MiB}
  "chat.{room}": {publish: anyone, history: {size: 2}}
"""
V1 = Subprotocol("abide.v1")
SUBSCRIBERS = 8
"""So many that both workers have some; the numbers would be the same if they had not."""


def new_database(postgres: PostgresServer) -> str:
    """Return the address of a new database with the schema."""
    name = asyncio.run(postgres.create_database())
    asyncio.run(migrate(postgres.url(name)))
    return postgres.url(name)


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    return new_database(postgres)


@pytest.fixture(scope="module")
def shared(database: str) -> Iterator[Server]:
    """Start two workers, for all tests that end none of them."""
    with Server(channels=CHANNELS, env=two_workers(database), ready_path="/health/ready") as server:
        workers(server, 2)
        yield server


@pytest.fixture
def before(shared: Server) -> dict[str, float]:
    """Return what the two workers have counted so far."""
    return settled(shared.url)


@pytest.fixture
def server(server_factory: ServerFactory, postgres: PostgresServer) -> Server:
    """Return two workers of the test's own that have both begun to serve."""
    env = two_workers(new_database(postgres))
    server = server_factory(channels=CHANNELS, env=env, ready_path="/health/ready")
    workers(server, 2)
    return server


def two_workers(database: str) -> dict[str, str]:
    return {"DATABASE_URL": database, "WEB_CONCURRENCY": "2"}


def workers(server: Server, count: int) -> list[int]:
    """Return the process ids of the first so many workers that began to serve."""
    pids: list[int] = []
    while len(pids) < count:
        pids.append(server.wait_log(lambda line: line["event"] == "serving" and line["pid"] not in pids)["pid"])
    return pids


def push(server: Server, channel: str, data: object) -> str:
    position: str = httpx.post(f"{server.url}/push/{channel}", json=data).raise_for_status().json()["position"]
    return position


def poll(channel: str, *, after: str) -> bytes:
    """Return a request that waits a minute for what comes after a position."""
    return f"GET /{channel}/history?since={after}&wait=60 HTTP/1.1\r\nHost: abide\r\n\r\n".encode()


@contextlib.contextmanager
def subscribe(server: Server, path: str) -> Iterator[ClientConnection]:
    """Open a socket that the server has said ``subscribed`` to."""
    with connect(f"{server.ws_url}/{path}", subprotocols=[V1]) as socket:
        assert json.loads(socket.recv(timeout=5))["type"] == "subscribed"
        yield socket


def counted(server: Server, channel: str) -> set[tuple[int, int | None]]:
    """Return the subscribers and heads that ten requests are told, each on a connection of its own."""
    found = set()
    for _ in range(10):
        listed = httpx.get(f"{server.url}/channels").raise_for_status().json()["channels"]
        found |= {(entry["subscribers"], entry["head"]) for entry in listed if entry["name"] == channel}
    return found


def expect_counted(server: Server, channel: str, subscribers: int, head: int | None) -> None:
    deadline = time.monotonic() + 10
    while (found := counted(server, channel)) != {(subscribers, head)}:
        assert time.monotonic() < deadline, f"found {found}, expected {subscribers, head}"


def closed(socket: ClientConnection) -> bool:
    """Whether the server's end of a socket is gone; what is sent before that is dropped."""
    try:
        while True:
            socket.recv(timeout=0.2)
    except TimeoutError:
        return False
    except ConnectionClosed:
        return True


def test_every_worker_counts_the_subscribers_of_all(server: Server) -> None:
    """Worker lists the subscribers of every worker, and forgets those of one that was killed."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(subscribe(server, "news")) for _ in range(SUBSCRIBERS)]
        stack.enter_context(subscribe(server, "chat.a"))
        push(server, "news", "x")
        expect_counted(server, "news", SUBSCRIBERS, 1)
        expect_counted(server, "chat.{room}", 1, None)
        expect_counted(server, "orders", 0, None)
        os.kill(workers(server, 2)[0], signal.SIGKILL)
        workers(server, 3)
        left = SUBSCRIBERS - sum(map(closed, sockets))
        expect_counted(server, "news", left, 1 if left else None)
    expect_counted(server, "news", 0, None)


def test_messages_and_subscribers_are_counted_by_declared_name(shared: Server, before: dict[str, float]) -> None:
    """Server counts what both workers published and delivered, by declared name, and who is connected."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(subscribe(shared, channel))
            for channel in ("news", "chat.a")
            for _ in range(SUBSCRIBERS)
        ]
        for channel in ("news", "news", "news", "chat.a", "chat.b"):
            push(shared, channel, "x")
        for count, some in ((3, sockets[:SUBSCRIBERS]), (1, sockets[SUBSCRIBERS:])):
            for socket in some:
                for _ in range(count):
                    assert json.loads(socket.recv(timeout=5))["type"] == "message"
        assert httpx.post(f"{shared.url}/push/nope", json=1).status_code == 404
        batch = [{"channel": "news", "message": 1, "key": "k"}, {"channel": "nope", "message": 1}]
        for _ in range(2):  # the second is a replay, and stores nothing
            httpx.post(f"{shared.url}/push", json=batch).raise_for_status()
        expect(
            shared.url,
            {
                'abide_published_total{channel="news"}': 4,
                'abide_published_total{channel="chat.{room}"}': 2,
                'abide_published_total{channel="orders"}': 0,
                'abide_delivered_total{channel="news"}': 4 * SUBSCRIBERS,
                'abide_delivered_total{channel="chat.{room}"}': SUBSCRIBERS,
                'abide_subscribers{channel="news"}': SUBSCRIBERS,
                'abide_subscribers{channel="chat.{room}"}': SUBSCRIBERS,
                'abide_connections{kind="websocket"}': 2 * SUBSCRIBERS,
                'abide_push_refused_total{code="unknown_channel"}': 3,
                "abide_append_batch_messages_sum": 7,
                "abide_append_seconds_count": 7,
                "abide_backend_ok": 1,
            },
            since=before,
        )
    expect(shared.url, {'abide_subscribers{channel="news"}': 0, 'abide_connections{kind="websocket"}': 0})
    samples = scrape(shared.url)
    assert samples["abide_loop_delay_seconds_count"] > 0
    assert samples["abide_backend_roundtrip_seconds_count"] > 0
    assert not any("chat.a" in name for name in samples)


def test_streams_and_polls_are_counted_apart_from_sockets(shared: Server) -> None:
    """Server counts event streams and long-polls apart from WebSockets."""
    push(shared, "news", 1)
    with (
        httpx.Client(base_url=shared.url, timeout=10) as http,
        http.stream("GET", "/news", headers={"accept": "text/event-stream"}),
        Wire(shared.port) as waiting,
    ):
        waiting.send(poll("orders", after=push(shared, "orders", 1)))
        expect(
            shared.url,
            {
                'abide_connections{kind="sse"}': 1,
                'abide_connections{kind="poll"}': 1,
                'abide_connections{kind="websocket"}': 0,
            },
        )
        push(shared, "orders", 1)
        waiting.read_head()
        expect(shared.url, {'abide_connections{kind="poll"}': 0, 'abide_connections{kind="sse"}': 1})


def test_resumes_and_gaps_are_counted(shared: Server, before: dict[str, float]) -> None:
    """Server counts who came back with a position, and who had to be told that messages are missing."""
    first = push(shared, "chat.a", 0)
    for number in (1, 2, 3):
        last = push(shared, "chat.a", number)
    for since, count in ((last, 2), (first, 1), ("elsewhere:7", 1)):
        for _ in range(count):
            with subscribe(shared, f"chat.a?since={since}"):
                pass
    expect(
        shared.url,
        {
            'abide_resumes_total{outcome="resumed"}': 2,
            'abide_resumes_total{outcome="gap"}': 2,
            'abide_gaps_total{reason="expired"}': 1,
            'abide_gaps_total{reason="epoch"}': 1,
        },
        since=before,
    )


def test_what_sql_publishes_is_counted_once(
    shared: Server, before: dict[str, float], database: str, postgres: PostgresServer
) -> None:
    """Server counts what SQL publishes, once over all workers, and apart what goes to undeclared channels."""
    name = database.rpartition("/")[2].partition("?")[0]
    for channel, key in (("news", "a"), ("news", "a"), ("news", "b"), ("unheard.of", "a")):
        asyncio.run(postgres.execute("SELECT abide.publish($1, '1', $2)", channel, key, database=name))
    expect(shared.url, {'abide_published_total{channel="news"}': 2, "abide_undeclared_total": 1}, since=before)


def test_a_slow_subscriber_is_shown_until_it_has_caught_up(shared: Server, before: dict[str, float]) -> None:
    """Server says that a subscriber is slow, and how far behind, until it has read everything."""
    with Wire.open(shared.port, "/orders", receive_buffer=4096) as slow:
        count = 20
        for _ in range(count):
            push(shared, "orders", "x" * 1_000_000)
        expect(shared.url, {"abide_slow_subscribers": 1})
        assert 0 < scrape(shared.url)["abide_slow_lag_messages"] < count
        for _ in range(count):
            assert slow.read_frame()[0] == TEXT
        expect(
            shared.url,
            {
                "abide_slow_subscribers": 0,
                "abide_slow_lag_messages": 0,
                'abide_delivered_total{channel="orders"}': count,
            },
            since=before,
        )


def test_metrics_say_that_a_broken_file_is_not_in_force(server: Server) -> None:
    """Server says that the file on disk is not in force; a removed channel's series stay, and grow no more."""
    with subscribe(server, "news"):
        push(server, "news", 1)
        expect(server.url, {"abide_config_ok": 1, 'abide_subscribers{channel="news"}': 1})
        server.write_channels(CHANNELS.replace("publish", "publsh"))
        expect(server.url, {"abide_config_ok": 0})
        server.write_channels(CHANNELS.replace("news", "olds"))
        expect(
            server.url,
            {
                "abide_config_ok": 1,
                'abide_subscribers{channel="news"}': 0,
                'abide_published_total{channel="news"}': 1,
                'abide_delivered_total{channel="news"}': 1,
                'abide_published_total{channel="olds"}': 0,
            },
        )


def test_a_killed_workers_counts_are_kept_and_its_connections_forgotten(server: Server) -> None:
    """Server keeps what a killed worker has counted, and forgets its connections."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(subscribe(server, "news")) for _ in range(SUBSCRIBERS)]
        for _ in range(5):
            push(server, "news", "x")
        counted = {
            'abide_published_total{channel="news"}': 5.0,
            'abide_delivered_total{channel="news"}': 5.0 * SUBSCRIBERS,
        }
        expect(server.url, {**counted, 'abide_connections{kind="websocket"}': SUBSCRIBERS})
        os.kill(workers(server, 2)[0], signal.SIGKILL)
        workers(server, 3)
        left = sum(is_open(socket) for socket in sockets)
        expect(server.url, {**counted, 'abide_connections{kind="websocket"}': left})


def is_open(socket: ClientConnection) -> bool:
    """Whether the server still answers."""
    try:
        return socket.ping().wait(timeout=5)
    except Exception:  # noqa: BLE001 — however it says that it is gone
        return False


def test_a_server_whose_database_is_away_is_alive_and_not_ready(server_factory: ServerFactory) -> None:
    """Server whose database is away is alive, not ready, and says why; its numbers say so too."""
    with PostgresServer() as own:
        server = server_factory(channels=CHANNELS, env={"DATABASE_URL": own.url()}, ready_path="/health/ready")
        expect(server.url, {"abide_backend_ok": 1})
        own.stop("immediate")
        expect(server.url, {"abide_backend_ok": 0})
        ready = httpx.get(f"{server.url}/health/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert ready.json()["reasons"][0].startswith("backend: ")
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        own.start()
        expect(server.url, {"abide_backend_ok": 1})
        assert httpx.get(f"{server.url}/health/ready").json()["reasons"] == []


def pushed(url: str) -> str:
    return httpx.post(f"{url}/push/news", json=1, timeout=20).text


def read(url: str) -> str:
    return httpx.get(f"{url}/news/history", timeout=20).text


def refused_by_sse(url: str) -> str:
    return httpx.get(f"{url}/news", headers={"Accept": "text/event-stream"}, timeout=20).text


def subscribed(url: str) -> str:
    with connect(f"{url.replace('http', 'ws')}/ws", subprotocols=[V1]) as socket:
        socket.send('{"type": "subscribe", "channel": "news"}')
        return str(socket.recv(20))


def refused(url: str) -> str:
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"{url.replace('http', 'ws')}/news", open_timeout=20)
    return str(refusal.value.response.body)


def test_clients_are_not_told_where_a_database_is_that_is_away(server_factory: ServerFactory) -> None:
    """Client that is refused over HTTP, a WebSocket or SSE while the database is away learns nothing of it."""
    with PostgresServer() as own:
        server = server_factory(channels=CHANNELS, env={"DATABASE_URL": own.url()}, ready_path="/health/ready")
        own.stop("immediate")
        expect(server.url, {"abide_backend_ok": 0})
        with ThreadPoolExecutor() as threads:
            told = list(threads.map(lambda ask: ask(server.url), (pushed, read, subscribed, refused_by_sse, refused)))
        for text in told:
            assert "the database is not ready: try again in a moment" in text
            assert str(own.port) not in text


def test_metrics_are_served_on_a_port_of_their_own(server_factory: ServerFactory, database: str) -> None:
    """Server has the numbers of all workers on METRICS_PORT, and only there, also of those that a SIGHUP replaced."""
    port = free_port()
    env = {"DATABASE_URL": database, "WEB_CONCURRENCY": "2", "METRICS_PORT": str(port)}
    server = server_factory(channels=CHANNELS, env=env, ready_path="/health/ready")
    workers(server, 2)
    url = f"http://127.0.0.1:{port}"
    for _ in range(5):
        push(server, "news", 1)
    server.send_signal(signal.SIGHUP)
    workers(server, 4)
    push(server, "news", 1)
    expect(url, {'abide_published_total{channel="news"}': 6, 'abide_subscribers{channel="news"}': 0})
    answer, head = httpx.get(f"{url}/metrics"), httpx.head(f"{url}/metrics")
    assert answer.headers["content-type"] == head.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert int(head.headers["content-length"]) > 0
    assert head.content == b""
    assert httpx.get(f"{url}/other").status_code == 404
    assert httpx.get(f"{server.url}/metrics").status_code == 404


def test_a_port_that_is_taken_keeps_the_server_from_starting(server_factory: ServerFactory) -> None:
    """Server whose METRICS_PORT is taken does not start, and says so in one line."""
    port = free_port()
    server_factory(env={"METRICS_PORT": str(port)})
    second = Server(env={"METRICS_PORT": str(port)})
    second.launch()
    assert second.wait() == 1
    reason = "Address already in use: stop what listens there, or set another port"
    assert second.stderr == [f"METRICS_PORT: cannot listen on 127.0.0.1:{port}: {reason}"]


def test_scrapes_are_bounded_in_number_and_time(server_factory: ServerFactory) -> None:
    """Server answers eight requests on METRICS_PORT at a time, and cuts off those that take too long to arrive."""
    port = free_port()
    server_factory(env={"METRICS_PORT": str(port)})
    url = f"http://127.0.0.1:{port}/metrics"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(8)]
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(url, timeout=2)
        ended = [dribble_until_closed(connection) for connection in slow[:1]]
        assert httpx.get(url, timeout=30).status_code == 200
    assert ended == [b""]


def dribble_until_closed(connection: socket.socket) -> bytes:
    """Send a header byte by byte until the other side ends; return what it answered."""
    connection.settimeout(0.2)
    for _ in range(300):
        try:
            connection.sendall(b"x")
            return connection.recv(100)
        except TimeoutError:
            continue
        except OSError:
            return b""
    pytest.fail("the request may dribble for ever")


def test_numbers_are_for_this_machine_alone(server_factory: ServerFactory) -> None:
    """Server on loopback answers on METRICS_PORT to local names alone, and closes; elsewhere to every name."""
    port = free_port()
    server_factory(env={"METRICS_PORT": str(port)})
    url = f"http://127.0.0.1:{port}/metrics"
    for host, status in (("localhost", 200), (f"127.0.0.1:{port}", 200), ("evil.example", 403), ("intranet", 403)):
        assert httpx.get(url, headers={"host": host}).status_code == status
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.0 200")
    other = free_port()
    server_factory(env={"METRICS_PORT": str(other), "HOST": "0.0.0.0"})  # noqa: S104 — as a container does
    assert httpx.get(f"http://127.0.0.1:{other}/metrics", headers={"host": "abide.internal"}).status_code == 200


def test_scrapes_are_not_logged(shared: Server) -> None:
    """Server answers GET and HEAD of /metrics, in the format asked for, without a line in its log."""
    before = len(shared.log)
    open_metrics = httpx.get(f"{shared.url}/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")
    assert httpx.head(f"{shared.url}/metrics").status_code == 200
    push(shared, "news", 1)
    shared.wait_log(lambda line: line.get("path") == "/push/news" and line in shared.log[before:])
    assert [line for line in shared.log[before:] if line.get("path") == "/metrics"] == []


def test_a_long_poll_ends_with_its_client(shared: Server) -> None:
    """Server waits no longer for a message for a client that has gone."""
    with Wire(shared.port) as wire:
        wire.send(poll("news", after=push(shared, "news", 1)))
        expect(shared.url, {'abide_connections{kind="poll"}': 1})
    expect(shared.url, {'abide_connections{kind="poll"}': 0})
