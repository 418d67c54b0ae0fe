"""Every engine gives what its server promises of it: one server of two workers on each, as users run it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.core.engines import ENGINES, Engine
from tests.support import engines, metrics
from tests.support.server import Server
from tests.support.tansu import TansuServer
from tests.support.tokens import SECRET, bearer, token
from tests.support.valkey import ValkeyServer

CHANNELS = f"""\
backend: ${{DATABASE_URL}}
auth: {{keys: first-key-1, tokens: {{secret: {SECRET}}}}}
channels:
  "lebowski": {{publish: anyone}}
  "order.{{number}}": {{publish: anyone}}
  "counted.{{number}}": {{publish: anyone}}
  guarded: {{publish: key, subscribe: token}}
"""
KEY = bearer("first-key-1")
V1 = Subprotocol("abide.v1")
SUBSCRIBERS = 4
"""So many that both workers have some."""
PATIENCE = 10


class Served(NamedTuple):
    """A server, and what its engine gives."""

    server: Server
    engine: Engine

    def push(self, channel: str, data: object) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.post(f"{self.server.url}/push/{channel}", json=data).raise_for_status().json()
        return answer

    @contextlib.contextmanager
    def subscribe(self, target: str, credential: str = "") -> Iterator[ClientConnection]:
        """Open a socket of ``abide.v1``."""
        headers = bearer(credential) if credential else None
        with connect(f"{self.server.ws_url}/{target}", subprotocols=[V1], additional_headers=headers) as socket:
            yield socket


@pytest.fixture(scope="module", params=ENGINES)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    engine = ENGINES[request.param]
    workers = "1" if engine.workers == "one process" else "2"
    with engines.ENGINES[engine.name]() as running:
        env = {"DATABASE_URL": running.url, "WEB_CONCURRENCY": workers}
        with Server(channels=CHANNELS, env=env, ready_path="/health/ready") as server:
            yield Served(server, engine)


def frame(socket: ClientConnection) -> dict[str, Any]:
    """Return the next frame."""
    received: dict[str, Any] = json.loads(socket.recv(timeout=PATIENCE))
    return received


def test_the_blog_posts_code_runs_unchanged(served: Served) -> None:
    """Subscriber of the blog post gets what its publisher posts, as it was posted."""
    with connect(f"{served.server.ws_url}/lebowski") as websocket:
        message = {"channel": "lebowski", "message": "The Dude abides"}
        answer = httpx.post(f"{served.server.url}/push", json=message).raise_for_status().json()
        assert answer["message"] == message["message"]
        assert json.loads(websocket.recv(timeout=PATIENCE)) == message["message"]


def test_messages_come_once_and_in_order_to_subscribers_of_every_worker(served: Served) -> None:
    """Subscriber of any worker gets every message of many pushes once, in order, with dense offsets if any."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(served.subscribe("order.1")) for _ in range(SUBSCRIBERS)]
        assert {frame(socket)["type"] for socket in sockets} == {"subscribed"}
        served.push("order.1", "first")
        body = [{"channel": "order.1", "message": number} for number in range(100)]
        answers = httpx.post(f"{served.server.url}/push", json=body).raise_for_status().json()
        offsets = [answer["offset"] for answer in answers]
        assert offsets == ([None] * 100 if served.engine.history == "none" else list(range(2, 102)))
        for socket in sockets:
            assert [frame(socket)["data"] for _ in range(101)] == ["first", *range(100)]


def test_who_comes_back_misses_nothing_or_is_told_of_a_gap(served: Served) -> None:
    """Subscriber that comes back gets what it missed; where nothing is kept it is told of a gap."""
    position = served.push("order.2", "before")["position"]
    served.push("order.2", "missed")
    with served.subscribe(f"order.2?since={position or 'e0:1'}") as socket:
        subscribed, then = frame(socket), frame(socket)
        assert subscribed["resumed"] is (served.engine.history != "none")
        if served.engine.history == "none":
            assert then["type"] == "gap"
            assert httpx.get(f"{served.server.url}/order.2/history").json()["messages"] == []
            return
        assert then["data"] == "missed"
        page = httpx.get(f"{served.server.url}/order.2/history").raise_for_status().json()
        assert [message["data"] for message in page["messages"]] == ["before", "missed"]


def test_who_comes_from_another_engine_is_told_of_a_gap(served: Served) -> None:
    """Subscriber with a position of another log is told of a gap, and gets everything that this one holds."""
    pushed = served.push("order.3", "here")["position"]
    with served.subscribe("order.3?since=elsewhere:7") as socket:
        subscribed, gap = frame(socket), frame(socket)
        assert (subscribed["resumed"], gap["type"], gap["after"]) == (False, "gap", "elsewhere:7")
        assert gap["reason"] == "epoch"
        served.push("order.3", "next")
        expected = ["next"] if served.engine.history == "none" else ["here", "next"]
        assert [frame(socket)["data"] for _ in expected] == expected
        assert gap["next"] == (pushed if served.engine.history != "none" else None)


def test_a_token_that_is_taken_back_ends_its_sockets_on_every_worker(served: Served) -> None:
    """Revocation over HTTP closes the sockets of its subject with 4401 on all workers, and nobody else's."""
    with contextlib.ExitStack() as stack:

        def subscribe(sub: str) -> ClientConnection:
            credential = token(sub=sub, iat=time.time() - 10, subscribe=["guarded"])
            socket = stack.enter_context(served.subscribe("guarded", credential))
            assert frame(socket)["type"] == "subscribed"
            return socket

        revoked, kept = [subscribe("42") for _ in range(SUBSCRIBERS)], subscribe("43")
        httpx.post(f"{served.server.url}/revoke", json={"sub": "42"}, headers=KEY).raise_for_status()
        for socket in revoked:
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        httpx.post(f"{served.server.url}/push/guarded", json="still", headers=KEY).raise_for_status()
        assert frame(kept)["data"] == "still"


def test_operators_see_that_it_is_well_and_what_it_did(served: Served) -> None:
    """Server is ready, and its metrics and its overview count what all workers did."""
    with served.subscribe("counted.1") as socket:
        assert frame(socket)["type"] == "subscribed"
        for number in range(5):
            served.push("counted.1", number)
        assert [frame(socket)["data"] for _ in range(5)] == list(range(5))
        metrics.expect(served.server.url, {'abide_published_total{channel="counted.{number}"}': 5.0})
        deadline = time.monotonic() + PATIENCE
        while not (look := httpx.get(f"{served.server.url}/console/overview").json())["rates"].get("counted.{number}"):
            assert time.monotonic() < deadline, look
            time.sleep(0.05)
    ready = httpx.get(f"{served.server.url}/health/ready")
    assert (ready.status_code, ready.json()["reasons"]) == (200, [])
    assert look["health"]["ready"] is True


@pytest.mark.parametrize("name", ["redis", "kafka"])
def test_an_engine_that_comes_late_is_waited_for(name: str) -> None:
    """Server without its engine lives, is not ready, refuses pushes, says so in one line, and is ready by itself."""
    with contextlib.closing(ValkeyServer() if name == "redis" else TansuServer()) as engine:
        url = f"{name}://127.0.0.1:{engine.port}"
        with Server(channels=CHANNELS, env={"DATABASE_URL": url}) as server:
            assert httpx.get(f"{server.url}/health/live").status_code == 200
            ready = httpx.get(f"{server.url}/health/ready")
            assert ready.status_code == 503
            assert f"127.0.0.1:{engine.port}" in str(ready.json()["reasons"])
            refused = httpx.post(f"{server.url}/push/lebowski", json=1, timeout=PATIENCE)
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
            engine.start()
            deadline = time.monotonic() + PATIENCE
            while (ready := httpx.get(f"{server.url}/health/ready")).status_code != 200:
                assert time.monotonic() < deadline, ready.text
                time.sleep(0.05)
            served = Served(server, ENGINES[name])
            with served.subscribe("lebowski") as socket:
                assert frame(socket)["type"] == "subscribed"
                served.push("lebowski", "here")
                while (received := frame(socket))["type"] == "gap":
                    pass
                assert received["data"] == "here"
            text = server.text()
            assert "Traceback" not in text
            assert text.count("not_listening") == 1
            told = [line for line in server.log if line["level"] != "info" and f":{engine.port}" in str(line)]
            assert [line["event"] for line in told] == ["not_listening"]
