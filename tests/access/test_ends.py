"""The end of a right, by time, by revocation and by a change of the file, in the middle of whatever is going on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection
from typing import NamedTuple

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.acceptance.test_reload import edit
from tests.support.server import SERVE, Server
from tests.support.tokens import OLD_SECRET, SECRET, bearer, token
from tests.support.wire import CLOSE, PATIENCE, Wire, request
from tests.web.conftest import PLAIN

KEY = "the-key-of-all"
BASE = f"""
backend: memory://
operators: key
auth:
  keys: [{KEY}, {{name: other, key: the-other-key}}]
  tokens: {{secret: ["{SECRET}", "{OLD_SECRET}"], leeway: 0s}}
channels:
  news: {{publish: key, subscribe: token, client_publish: true}}
  desk: {{publish: key, subscribe: key, client_publish: true}}
  filled: {{publish: key, subscribe: token}}
  "room.{{id}}": {{publish: token, subscribe: [token, {{claim: sub}}], client_publish: true}}
"""
MESSAGES = 150
SIZE = 60_000
SUBSCRIBE, PUBLISH = ["news", "filled", "room.1", "room.2"], ["room.1", "room.2"]


class Shared(NamedTuple):
    """A server, and a client that has a key."""

    server: Server
    http: httpx.Client

    def push(self, name: str, value: object = 1) -> None:
        assert self.http.post(f"/push/{name}", json=value, headers=bearer(KEY)).status_code == 200

    def revoke(self, **what: str) -> None:
        assert self.http.post("/revoke", json=what, headers=bearer(KEY)).status_code == 200

    def connect(self, path: str, raw: str, *protocols: str) -> ClientConnection:
        return connect(
            self.server.ws_url + path,
            additional_headers=bearer(raw),
            subprotocols=[Subprotocol(protocol) for protocol in protocols] or None,
            open_timeout=30,
        )

    def subscribers(self, name: str) -> int:
        """Return how many there are of a declared channel."""
        channels = self.http.get("/channels", headers=bearer(KEY)).json()["channels"]
        return int(next(channel["subscribers"] for channel in channels if channel["name"] == name))

    @contextmanager
    def asking(self, path: str, raw: str) -> Iterator[HTTPConnection]:
        """Send a GET; its answer is still to come."""
        with closing(self.connection()) as connection:
            connection.request("GET", path, headers=bearer(raw))
            yield connection

    def connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.server.port, timeout=40)


@pytest.fixture(scope="module", params=[SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    with (
        Server(channels=BASE, command=request.param) as server,
        httpx.Client(base_url=server.url, timeout=40) as client,
    ):
        shared = Shared(server, client)
        for number in range(MESSAGES):
            shared.push("filled", f"{number}".ljust(SIZE))
        yield shared


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def good(secret: str = SECRET, **claims: object) -> str:
    """Return a token with the grants."""
    return token(secret, publish=PUBLISH, subscribe=SUBSCRIBE, **claims)


def short() -> tuple[str, float]:
    """Return a token that is good for a moment, and its end."""
    now = time.time()
    return good(sub="ada", iat=now, exp=now + 2), now + 2


def code(socket: ClientConnection) -> int | None:
    """Wait for the end of a socket; return its close code."""
    with suppress(ConnectionClosed):
        while True:
            socket.recv(PATIENCE)
    return socket.close_code


def after(end: float) -> None:
    """Wait until what ends at a time, or a moment later, has ended."""
    time.sleep(max(0.0, end + 0.4 - time.time()))


def status(connection: HTTPConnection, method: str, path: str, raw: str, body: bytes | None) -> int:
    """Send the same bytes as each time, and return the status of the answer."""
    connection.request(method, path, body, bearer(raw) | {"content-type": "application/json"})
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


# The same request, again and again.


@pytest.mark.parametrize(("method", "path"), [("POST", "/push/room.1"), ("POST", "/push"), ("GET", "/news/history")])
def test_the_same_request_is_refused_from_the_end_of_its_token_on(shared: Shared, method: str, path: str) -> None:
    """Server answers the same bytes until their token's end, and refuses them from then on, on old connections too."""
    raw, end = short()
    body = {"/push/room.1": b"1", "/push": b'{"channel": "room.1", "message": 1}'}.get(path)
    with closing(shared.connection()) as one, closing(shared.connection()) as other:

        def statuses() -> set[int]:
            return {status(connection, method, path, raw, body) for connection in (one, other)}

        assert statuses() == {200}
        while (found := statuses()) == {200}:
            assert time.time() < end + 10
            time.sleep(0.005)
        assert time.time() >= end
        assert found <= {200, 401}
        assert statuses() == {401}


@pytest.mark.parametrize("claim", ["sub", "jti"])
def test_the_same_request_is_refused_once_its_token_is_taken_back(shared: Shared, claim: str) -> None:
    """Server refuses the same bytes after the revocation, on the connection that they were answered on and another."""
    name = f"same-{time.time()}"
    raw = good(**{claim: name}, iat=int(time.time()) - 5)
    with closing(shared.connection()) as one, closing(shared.connection()) as other:
        assert [status(one, "POST", "/push/room.1", raw, b"1") for _ in range(3)] == [200, 200, 200]
        shared.revoke(**{claim: name})
        assert [status(connection, "POST", "/push/room.1", raw, b"1") for connection in (one, other)] == [401, 401]


# In the middle.


def test_a_long_poll_ends_with_its_token(shared: Shared) -> None:
    """Long-poll is refused when its token ends while it waits, and shows nothing that was published after."""
    raw, end = short()
    begun = time.monotonic()
    answer = shared.http.get("/room.2/history?wait=30", headers=bearer(raw))
    assert answer.status_code == 401
    assert time.monotonic() - begun < 20
    assert time.time() >= end


@pytest.mark.parametrize("claim", ["sub", "jti"])
def test_a_long_poll_ends_with_its_revocation(shared: Shared, claim: str) -> None:
    """Long-poll is refused when its token is taken back while it waits."""
    name = f"poll-{time.time()}"
    raw = good(**{claim: name}, iat=int(time.time()) - 5)
    with shared.asking("/room.2/history?wait=30", raw) as poll:
        until(lambda: shared.subscribers("room.{id}") == 1)
        shared.revoke(**{claim: name})
        assert poll.getresponse().status == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/push/room.1", b'"' + b"x" * 100 + b'"'),
        ("/push", b'{"channel": "room.1", "message": 1}' + b" " * 100),
        ("/push", b'[{"channel": "room.1", "message": 1}, {"channel": "room.2", "message": 1}]'),
    ],
    ids=["by path", "envelope", "array"],
)
def test_a_body_that_arrives_after_the_end_publishes_nothing(shared: Shared, path: str, body: bytes) -> None:
    """Server refuses a push whose token ends while its body is on the way."""
    raw, end = short()
    with Wire(shared.server.port) as wire:
        length = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {raw}", *length, "", ""]
        wire.send("\r\n".join(head).encode() + body[:20])
        after(end)
        wire.send(body[20:])
        assert wire.read_head().startswith(b"HTTP/1.1 401 ")


def unread(shared: Shared, path: str, raw: str, *lines: str) -> Wire:
    """Send a GET whose answer nobody reads yet."""
    wire = Wire(shared.server.port, receive_buffer=4096)
    head = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", f"Authorization: Bearer {raw}", *lines, "", ""]
    wire.send("\r\n".join(head).encode())
    return wire


def test_a_catch_up_ends_with_its_token(shared: Shared) -> None:
    """Event stream that is still far behind when its token ends is sent no more than what was on the way, and why."""
    raw, end = short()
    with unread(shared, "/filled?since=earliest", raw, "Accept: text/event-stream") as wire:
        after(end)
        rest = wire.read_rest()
    assert 0 < rest.count(b'\ndata: "') < MESSAGES
    assert b"event: closed" in rest
    assert b'"code":4408' in rest.replace(b" ", b"")


def test_a_socket_that_catches_up_ends_with_its_token(shared: Shared) -> None:
    """Socket that is still far behind when its token ends is sent no more than what was on the way, and why."""
    raw, end = short()
    with Wire(shared.server.port, receive_buffer=4096) as wire:
        wire.send(request("/filled?since=earliest", add=(f"Authorization: Bearer {raw}",)))
        after(end)
        assert wire.read_head().startswith(b"HTTP/1.1 101 ")
        messages = 0
        while (found := wire.read_frame())[0] != CLOSE:
            messages += 1
    assert 0 < messages < MESSAGES
    assert int.from_bytes(found[1][:2], "big") == 4408


def test_a_history_of_many_pages_ends_with_its_token(shared: Shared) -> None:
    """History of many pages goes no further than the page that its token's end finds, and is whole JSON."""
    raw, end = short()
    with unread(shared, "/filled/history?limit=1000", raw) as wire:
        after(end)
        wire.read_head()
        rest = wire.read_rest()
    content = b"".join(chunk for chunk in _chunks(rest))
    assert 0 < len(json.loads(content)["messages"]) < MESSAGES


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


@pytest.mark.parametrize("protocols", [(), ("abide.v1",)], ids=["plain", "abide.v1"])
def test_a_socket_ends_with_its_token(shared: Shared, protocols: tuple[str, ...]) -> None:
    """Socket closes with 4408 soon after its token's end, and is sent nothing that is published later."""
    raw, end = short()
    with shared.connect("/news", raw, *protocols) as socket:
        assert code(socket) == 4408
    assert end <= time.time() < end + 20


# A new token for an open socket.


@pytest.mark.parametrize(
    "new",
    [
        "", "x", KEY, good(sub="eve"), good(), good(sub="ada", exp=1),
        good("another-secret-0123456789-0123456789", sub="ada"), token(sub="ada", subscribe="news"),
    ],
    ids=["nothing", "a word", "a key", "another subject", "no subject", "expired", "forged", "wrong type"],
)  # fmt: skip
def test_a_socket_whose_new_token_is_not_good_ends(shared: Shared, new: str) -> None:
    """Socket that sends such a token closes with 4401: it does not go on with the old one, nor as nobody."""
    with shared.connect("/ws", good(sub="ada"), "abide.v1") as socket:
        socket.send('{"type": "subscribe", "channel": "news"}')
        socket.recv(PATIENCE)
        socket.send(json.dumps({"type": "token", "token": new}))
        with suppress(ConnectionClosed):  # the close may have come already
            socket.send('{"type": "publish", "channel": "room.1", "data": "too late"}')
        assert code(socket) == 4401
    history = shared.http.get("/room.1/history?last=1&limit=1000", headers=bearer(good())).text
    assert "too late" not in history


def test_a_socket_without_a_token_gets_none_later(shared: Shared) -> None:
    """Socket that began with a key or with nothing closes with 4401 when it sends a token, and takes nobody's place."""
    for headers in ({}, bearer(KEY)):
        with connect(
            f"{shared.server.ws_url}/ws", additional_headers=headers, subprotocols=[Subprotocol("abide.v1")]
        ) as socket:
            socket.send(json.dumps({"type": "token", "token": good(sub="ada")}))
            assert code(socket) == 4401


def test_a_new_token_ends_what_it_does_not_cover(shared: Shared) -> None:
    """Socket keeps what its new token covers; its other subscriptions end with 4403, and it may publish no more."""
    with shared.connect("/ws", good(sub="ada"), "abide.v1") as socket:
        for name in ("news", "room.1", "room.ada"):
            socket.send(json.dumps({"type": "subscribe", "channel": name}))
            assert json.loads(socket.recv(PATIENCE))["type"] == "subscribed"
        socket.send(json.dumps({"type": "token", "token": token(sub="ada", subscribe=["news"])}))
        ended, renewed = json.loads(socket.recv(PATIENCE)), json.loads(socket.recv(PATIENCE))
        assert (ended["type"], ended["channel"], ended["code"]) == ("unsubscribed", "room.1", 4403)
        assert renewed["type"] == "token"
        socket.send('{"type": "publish", "channel": "room.1", "data": 1}')
        assert json.loads(socket.recv(PATIENCE))["status"] == 403


# Changes of the file.

CHANGES = {
    "the secret is removed": (f'"{OLD_SECRET}"', '""', 4401),
    "an issuer is set": ("leeway: 0s", "leeway: 0s, issuer: https://login.example/", 4401),
    "an audience is set": ("leeway: 0s", "leeway: 0s, audience: others", 4401),
    "tokens are no longer taken": (
        f'  tokens: {{secret: ["{SECRET}", "{OLD_SECRET}"], leeway: 0s}}\n', "", 4401,
    ),
    "the claims have other names": ("leeway: 0s", "leeway: 0s, claims: {subscribe: rooms, publish: rooms}", 4403),
    "the policy is key": ("news: {publish: key, subscribe: token", "news: {publish: key, subscribe: key", 4403),
    "the policy is nobody": ("news: {publish: key, subscribe: token", "news: {publish: key, subscribe: nobody", 4403),
    "the channel is removed": ("  news: {publish: key, subscribe: token, client_publish: true}\n", "", 4404),
}  # fmt: skip


by_the_watch = pytest.mark.parametrize("shared", [SERVE], ids=["handed over"], indirect=True)
"""Of tests that wait for the file to be read: who reads the requests has no part in that."""


@by_the_watch
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_file_ends_what_it_no_longer_allows(shared: Shared, change: str) -> None:
    """Sockets, streams and polls of a token end when a change of the file refuses it; they do not go on as nobody."""
    old, new, expected = CHANGES[change]
    text = BASE.replace(old, new)
    if "tokens are no longer" in change:
        text = text.replace("subscribe: token", "subscribe: key").replace("[token, {claim: sub}]", "key")
        text = text.replace("publish: token", "publish: key")
    assert text != BASE
    raw = good(OLD_SECRET, sub="ada")
    stream_head = bearer(raw) | {"accept": "text/event-stream"}
    with (
        shared.connect("/news", raw) as plain,
        shared.connect("/news", raw, "abide.v1") as one,
        shared.connect("/ws", raw, "abide.v1") as many,
        shared.http.stream("GET", "/news", headers=stream_head) as stream,
        shared.asking("/news/history?wait=30", raw) as poll,
        ExitStack() as stack,
    ):
        stack.callback(edit, shared.server, BASE)
        many.send('{"type": "subscribe", "channel": "news"}')
        assert json.loads(many.recv(PATIENCE))["type"] == "subscribed"
        until(lambda: shared.subscribers("news") == 5)
        edit(shared.server, text)
        assert {code(plain), code(one)} == {expected}
        assert f'"code":{expected}' in "".join(stream.iter_text()).replace(" ", "")
        assert poll.getresponse().status == {4404: 404, 4403: 403, 4401: 401}[expected]
        if expected == 4401:
            assert code(many) == 4401
        else:
            ended = json.loads(many.recv(PATIENCE))
            assert (ended["type"], ended["code"]) == ("unsubscribed", expected)


@by_the_watch
def test_what_the_file_still_allows_goes_on(shared: Shared) -> None:
    """Sockets with a token and with a key are the same callers after each change of the file that keeps their right."""
    with (
        shared.connect("/room.1", good(sub="ada"), "abide.v1") as tokened,
        shared.connect("/desk", "the-other-key", "abide.v1") as keyed,
    ):
        tokened.recv(PATIENCE)
        keyed.recv(PATIENCE)
        for number in range(3):
            edit(shared.server, f"{BASE}\n# change {number}: {time.time()}\n")
            for socket in (tokened, keyed):
                socket.send('{"type": "publish", "data": 1}')
                assert {json.loads(socket.recv(PATIENCE))["type"] for _ in range(2)} == {"published", "message"}
        edit(shared.server, BASE.replace(", {name: other, key: the-other-key}", ""))
        assert code(keyed) == 4401
        edit(shared.server, BASE)


@by_the_watch
def test_a_ticket_ends_with_the_secret_of_its_token(shared: Shared) -> None:
    """Ticket is refused if what its token was verified with is no longer configured when it is used."""
    raw = good(OLD_SECRET, sub="ada")
    tickets = [shared.http.post("/ticket", headers=bearer(raw)).json()["ticket"] for _ in range(2)]
    assert shared.http.get(f"/news/history?ticket={tickets[0]}").status_code == 200
    edit(shared.server, BASE.replace(f'"{OLD_SECRET}"', '""'))
    assert shared.http.get(f"/news/history?ticket={tickets[1]}").status_code == 401
    edit(shared.server, BASE)
