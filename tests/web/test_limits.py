"""What one client may take, over every way in, on a real server."""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app.core.limits.insistence import MOST_REFUSALS
from app.web.publish.push import MAX_BODY
from tests.support.local import wait_for
from tests.support.metrics import expect, scrape
from tests.support.server import SERVE, Server
from tests.support.wire import Wire
from tests.web.conftest import PLAIN
from tests.web.publish.test_push import JSON, assert_problem, head
from tests.web.subscribe.test_v1 import speak

LIMITS = """
backend: memory://
auth: {keys: "first-key-1, second-key-2"}
operators: anyone
limits: {connections: 6, connections_per_address: 3, subscriptions: 2}
defaults: {publish: anyone, client_publish: true, rate_limit: 2/h}
channels:
  path: {}
  body: {}
  many: {}
  "room.{id}": {}
  v1: {}
  plain: {}
  keyed: {}
  all: {rate_limit: {per_identity: 1/h, per_channel: 3/h, burst: 2}}
  free: {rate_limit: }
  quiet: {rate_limit: }
"""


@pytest.fixture(scope="module", params=[SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def limited(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(channels=LIMITS, command=request.param) as server:
        yield server


@pytest.fixture
def client(limited: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=limited.url, timeout=10) as client:
        yield client


def of(address: str) -> dict[str, str]:
    """Return the header with which a proxy on this machine says whose request it passes on."""
    return {"x-forwarded-for": address}


def assert_limited(answer: httpx.Response, fragment: str = "2/h from one publisher") -> None:
    assert_problem(answer, 429, "rate_limited", fragment)
    assert 1790 <= int(answer.headers["retry-after"]) <= 1800


def test_a_publisher_is_limited_on_both_paths(client: httpx.Client) -> None:
    """Push over the rate is 429, with the time to wait, whether the path or the body names the channel."""
    for path, body in (("/push/path", 1), ("/push", {"channel": "body", "message": 1})):
        answers = [client.post(path, json=body, headers=JSON) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert_limited(answers[2])
        assert client.post(path, json=body, headers=of("192.0.2.77")).status_code == 200


def test_each_item_of_an_array_counts(limited: Server, client: httpx.Client) -> None:
    """Array is stored as far as the rate allows, over all names of a family, and each item over it is told so."""
    before = scrape(limited.url)
    items = [{"channel": f"room.{number}", "message": number} for number in range(4)]
    results = client.post("/push", json=[*items, {"channel": "free", "message": 1}]).json()
    assert [result.get("code", "stored") for result in results] == ["stored"] * 2 + ["rate_limited"] * 2 + ["stored"]
    assert results[2]["status"] == 429
    counted = {'abide_limited_total{limit="rate_limit"}': 2.0, 'abide_push_refused_total{code="rate_limited"}': 2.0}
    expect(limited.url, counted, since=dict.fromkeys(counted, 0.0) | {k: v for k, v in before.items() if k in counted})


def test_a_repeated_idempotency_key_counts_too(client: httpx.Client) -> None:
    """Push with a known key counts like any other, because it costs as much."""
    headers = {"idempotency-key": "again"}
    answers = [client.post("/push/keyed", json=1, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["idempotency-replayed"] == "true"


def test_a_key_is_one_publisher_wherever_it_is(client: httpx.Client) -> None:
    """Publisher with a key is limited by the key, not by its address; another key is another publisher."""
    for key, codes in (("first-key-1", [200, 200]), ("second-key-2", [200, 429]), ("first-key-1", [429, 429])):
        headers = [of(f"192.0.2.{host}") | {"authorization": f"Bearer {key}"} for host in (1, 2)]
        assert [client.post("/push/all", json=1, headers=each).status_code for each in headers] == codes


def test_a_session_is_told_and_then_closed(limited: Server) -> None:
    """Session that publishes too fast gets an error for each message, and is closed with 4429 when it goes on."""
    with speak(limited, "/v1") as speaker:
        speaker.hear()
        for number in range(MOST_REFUSALS + 3):
            speaker.say(type="publish", id=number, data=number)
        refused: list[dict[str, Any]] = []
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 — all that comes before
            while True:
                heard = speaker.hear()
                refused += [heard] if heard["type"] == "error" else []
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4429
    assert [error["id"] for error in refused] == list(range(2, MOST_REFUSALS + 3))
    assert {(error["code"], error["status"]) for error in refused} == {("rate_limited", 429)}


def test_a_plain_socket_is_closed(limited: Server) -> None:
    """Plain socket that publishes too fast closes with 4429, and shares the limit with its owner's pushes."""
    assert httpx.post(f"{limited.url}/push/plain", json=1).status_code == 200
    with connect(f"{limited.ws_url}/plain?last=0") as socket:
        socket.send("2")
        assert socket.recv(timeout=5) == "2"
        socket.send("3")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4429
    assert "rate_limit" in closed.value.rcvd.reason


def test_subscriptions_are_as_many_as_the_file_says(limited: Server) -> None:
    """Session on /ws has as many subscriptions as the file says."""
    with speak(limited, "/ws") as speaker:
        for channel in ("path", "body", "many"):
            speaker.say(type="subscribe", channel=channel)
        assert [speaker.hear()["type"] for _ in range(3)] == ["subscribed", "subscribed", "error"]


class Visitors:
    """Connections that last, opened by clients of different addresses, and open until the end of the test."""

    def __init__(self, server: Server, stack: contextlib.ExitStack) -> None:
        self.server = server
        self._stack = stack
        self._pieces: list[Iterator[bytes]] = []

    def socket(self, address: str) -> int:
        """Open a socket; return its status, of a refusal after looking at it."""
        v1 = [Subprotocol("abide.v1")]
        try:
            self._stack.enter_context(
                connect(f"{self.server.ws_url}/ws", additional_headers=of(address), subprotocols=v1)
            )
        except InvalidStatus as error:
            answer = error.response
            return refused(answer.status_code, answer.headers["retry-after"], json.loads(answer.body or b""))
        return 101

    def stream(self, address: str) -> int:
        """Open an event stream, and return its status."""
        http = self._stack.enter_context(httpx.Client(base_url=self.server.url, timeout=10))
        headers = of(address) | {"accept": "text/event-stream"}
        answer = self._stack.enter_context(http.stream("GET", "/free", headers=headers))
        if answer.status_code == 200:
            pieces = answer.iter_raw()
            self._pieces.append(pieces)  # without it the client would close
            next(pieces)
            return 200
        return refused(answer.status_code, answer.headers["retry-after"], json.loads(answer.read()))

    def poll(self, address: str) -> int:
        """Begin a long-poll that waits, and return 0; or return the status of its refusal."""
        before = scrape(self.server.url)[POLLS]
        wire = self._stack.enter_context(Wire(self.server.port))
        wire.send(f"GET /quiet/history?wait=60 HTTP/1.1\r\nhost: a\r\nx-forwarded-for: {address}\r\n\r\n".encode())
        while not select.select([wire.socket], [], [], 0.02)[0]:
            if scrape(self.server.url)[POLLS] > before:
                return 0
        head = wire.read_head().lower()
        assert b"retry-after: 5" in head
        return int(head.split()[1])


POLLS = 'abide_connections{kind="poll"}'


def refused(status: int, retry_after: str, problem: dict[str, Any]) -> int:
    assert retry_after == "5"
    assert problem["status"] == status
    assert problem["code"] == {429: "too_many", 503: "overloaded"}[status]
    return status


def test_connections_that_last_are_bounded(limited: Server, client: httpx.Client) -> None:
    """Server has so many sockets, streams and polls of each address (else 429) and of all (else 503), and no more."""
    with contextlib.ExitStack() as stack:
        visitors = Visitors(limited, stack)
        ann, bob, cid = "192.0.2.1", "2001:db8::1", "192.0.2.3"
        assert [visitors.socket(ann), visitors.stream(ann), visitors.poll(ann)] == [101, 200, 0]
        assert [visitors.socket(ann), visitors.stream(ann), visitors.poll(ann)] == [429, 429, 429]
        assert [visitors.socket(bob), visitors.stream("2001:db8::2"), visitors.socket("2001:db8::3")] == [101, 200, 101]
        assert [visitors.socket(cid), visitors.stream(cid), visitors.poll(cid)] == [503, 503, 503]
        assert client.get("/health/live").status_code == 200
        assert client.get("/quiet/history?wait=0").status_code == 200
        assert client.post("/push/quiet", json=1).status_code == 200  # ends the poll
        expect(limited.url, {POLLS: 0.0})
        assert visitors.socket(cid) == 101
    kinds = [f'abide_connections{{kind="{kind}"}}' for kind in ("websocket", "sse", "poll")]
    expect(limited.url, dict.fromkeys(kinds, 0.0))
    with contextlib.ExitStack() as stack:  # all places were given back
        visitors = Visitors(limited, stack)
        assert [visitors.socket(address) for address in (ann, ann, ann, bob, bob, bob)] == [101] * 6


def test_refused_handshakes_hold_no_place(limited: Server) -> None:
    """Handshakes and streams that are refused for another reason give their place back."""
    for _ in range(10):
        assert httpx.get(f"{limited.url}/nope", headers={"accept": "text/event-stream"}).status_code == 404
        assert httpx.get(f"{limited.url}/free?since=x", headers={"accept": "text/event-stream"}).status_code == 400
        with pytest.raises(InvalidStatus), connect(f"{limited.ws_url}/nope"):
            pass
    with speak(limited, "/ws") as speaker:
        speaker.say(type="subscribe", channel="free")
        assert speaker.hear()["type"] == "subscribed"


def large(server: Server) -> int:
    """Push a large body that is no JSON; return the status unless it was read."""
    status = httpx.post(f"{server.url}/push", content=b" " * (MAX_BODY - 1), headers=JSON, timeout=10).status_code
    return 0 if status == 400 else status


def test_other_limits_hold_for_what_comes_next() -> None:
    """Reload of the limits leaves what is open alone, and holds for the next request, frame and connection."""
    text = (
        "backend: memory://\noperators: anyone\n{}\nchannels: {{news: {{publish: anyone, client_publish: true{}}}}}\n"
    )
    with Server(channels=text.format("", "")) as server:
        with connect(f"{server.ws_url}/news") as old, connect(f"{server.ws_url}/news"):
            limits = "limits: {connections: 2, frames: 20, bodies: 16MiB}"
            server.write_channels(text.format(limits, ", rate_limit: 1/h"))
            applied = server.wait_log(lambda line: line.get("event") == "config_applied")
            assert "limits.frames: 10000 -> 20" in applied["changed"]
            with pytest.raises(InvalidStatus) as refused, connect(f"{server.ws_url}/news"):
                pass
            assert refused.value.response.status_code == 503
            assert [httpx.post(f"{server.url}/push/news", json=1).status_code for _ in range(2)] == [200, 429]
            assert old.recv(timeout=5) == "1"
            with Wire(server.port) as wire:  # more than half of what large bodies may take
                wire.send(head("/push", f"content-length: {MAX_BODY}") + b" " * (MAX_BODY - 1))
                assert wait_for(lambda: large(server)) == 503
            with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 — as many as it takes
                while True:
                    old.ping()
                    time.sleep(0)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
        counts = {f'abide_limited_total{{limit="{limit}"}}': 1.0 for limit in ("connections", "frames", "rate_limit")}
        expect(server.url, counts)
