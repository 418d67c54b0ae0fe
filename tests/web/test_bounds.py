"""What one client can make the server hold, and that others are served meanwhile."""

from __future__ import annotations

import contextlib
import gc
import json
import select
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from app.access.auth_settings import AuthSettings
from app.core.channel import Channel, Registry
from app.core.delivery.encodings import V1_FRAMES
from app.core.delivery.hub import Hub
from app.core.errors import AbideError, KeyReusedError
from app.core.limits.intake import RESERVED, BoundedIntake
from app.core.limits.limiter import Limiter
from app.core.ports import Limits
from app.core.rights.policy import ANONYMOUS
from app.core.scan import Scan
from app.web.edge.access import Line
from app.web.edge.auth import Authenticator
from app.web.edge.doors import Doors
from app.web.publish.asgi_push import HeldBody
from app.web.publish.push import MAX_BODY
from app.web.subscribe.v1 import V1Socket
from app.web.subscribe.websocket import MAX_ECHO
from tests.support.server import Server
from tests.support.wire import TEXT, Wire, frame, request
from tests.support.writers import Nowhere
from tests.web.publish.test_push import JSON, assert_problem, head
from tests.web.publish.test_push_outcomes import STORED, Log, routes
from tests.web.subscribe.test_v1 import speak

LIMITS = Limits()

ROOM = LIMITS.bodies - LIMITS.bodies // RESERVED
"""Bytes of unfinished bodies that are not small, at most."""

FRAME = frame(TEXT, b'{"type":"x","id":"%b"}' % (b"x" * 1000))
MANY = 12 * 1024 * 1024 // len(FRAME)


@pytest.fixture
def crowd(edge: Server) -> Iterator[list[Wire]]:
    """Let clients hold all the room there is for large bodies, by bodies that never end."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(edge.port)) for _ in range(ROOM // MAX_BODY + 1)]
        for wire in wires:
            wire.send(head("/push", f"content-length: {MAX_BODY}") + b" " * (MAX_BODY - 1))
        yield wires


def test_bodies_that_do_not_end_are_bounded(crowd: list[Wire], http: httpx.Client) -> None:
    """Push answers 503 to the body for which there is no room, and small ones are stored as ever."""
    refused, _, _ = select.select([wire.socket for wire in crowd], [], [], 10)
    assert len(refused) == 1
    (wire,) = [wire for wire in crowd if wire.socket in refused]
    answer = wire.read_rest()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"overloaded"' in answer
    assert b"retry-after: " in answer.lower()
    assert b"connection: close" in answer.lower()
    assert http.post("/push/lebowski", content=b"1", headers=JSON).status_code == 200
    large = http.post("/push", content=b" " * (MAX_BODY - 100), headers=JSON)
    assert_problem(large, 503, "overloaded", "too many unfinished messages")


def test_room_is_given_back(edge: Server, http: httpx.Client) -> None:
    """Push takes large bodies again and again: what was answered, refused or broken off is not held."""
    body = json.dumps({"channel": "lebowski", "message": "x" * 60_000}).encode() + b" " * (MAX_BODY - 100_000)
    for _ in range(2 * ROOM // MAX_BODY):
        with Wire(edge.port) as wire:
            wire.send(head("/push", f"content-length: {MAX_BODY}") + b" " * 100_000)
        assert http.post("/push", content=body, headers=JSON).status_code == 200
        assert http.post("/push", content=body + b"x", headers=JSON).status_code == 400


def test_answers_that_are_not_read_are_bounded(edge: Server) -> None:
    """Socket that sends and does not read is not read from while its answers fill its buffer; reading, it goes on."""
    with Wire(edge.port) as wire:
        wire.send(request("/ws", add=("Sec-WebSocket-Protocol: abide.v1",)))
        wire.read_head()
        wire.socket.settimeout(0)
        unsent = memoryview(FRAME * MANY)
        while unsent and select.select([], [wire.socket], [], 1)[1]:
            unsent = unsent[wire.socket.send(unsent) :]
        assert unsent, "12 MiB were taken from who reads none of the answers"
        received = b""
        while unsent:
            readable, writable, _ = select.select([wire.socket], [wire.socket], [], 10)
            if readable:
                received = received[-100:] + wire.socket.recv(1 << 20)
            if writable:
                unsent = unsent[wire.socket.send(unsent) :]
            assert readable or writable
        assert b'"code":"malformed"' in received


def test_subscriptions_of_one_connection_are_bounded(edge: Server) -> None:
    """Session has at most 100 subscriptions: one more is an error, and an end makes room."""
    with speak(edge, "/ws") as speaker:
        for number in range(LIMITS.subscriptions):
            speaker.say(type="subscribe", channel=f"chat.bound-{number}")
            assert speaker.hear()["type"] == "subscribed"
        speaker.say(type="subscribe", id=1, channel="lebowski")
        refused = speaker.hear()
        assert (refused["type"], refused["id"], refused["code"], refused["status"]) == ("error", 1, "too_many", 429)
        speaker.say(type="unsubscribe", channel="chat.bound-7")
        assert speaker.hear()["type"] == "unsubscribed"
        speaker.say(type="subscribe", channel="lebowski")
        assert speaker.hear()["type"] == "subscribed"


@pytest.mark.parametrize("message", ["x" * (MAX_ECHO + 1), b"x" * (MAX_ECHO + 1), "é" * (MAX_ECHO // 2 + 1)])
def test_the_echo_is_for_small_messages(edge: Server, message: str | bytes) -> None:
    """Echo answers 4 KiB, and closes with 1009 at more."""
    with connect(f"{edge.ws_url}/echo") as echo:
        fits = message[: MAX_ECHO // 2]
        echo.send(fits)
        assert echo.recv(timeout=5) == fits
        echo.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            echo.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


ITEM = b'{"channel": "lebowski", "message": %b}'


@pytest.mark.parametrize(
    ("body", "status", "fragment"),
    [
        (lambda: b"[" + b"[]," * 2_600_000 + b"[]]", 400, "more than 1000 items"),
        (lambda: b"{" + b",".join(b'"%d":1' % number for number in range(600_000)) + b"}", 400, "unknown member '0'"),
        (lambda: b"{" + b",".join([b'"channel":"x"'] * 500_000) + b"}", 400, "'channel' appears twice"),
        (lambda: b"[" * 8_000_000, 400, "128 deep"),
        (lambda: b"[" + b" " * 8_000_000 + b"[" * 130, 400, "128 deep"),
        (lambda: ITEM % (b'"' + b"x" * 2_000_000 + b'"'), 413, "at most"),
        (lambda: b"[" + ITEM % (b"[" + b"[]," * 700_000 + b"1]") + b"]", 413, "at most"),
        (lambda: b'"' + b"\\\\" * 4_000_000 + b'"', 400, "expected an object"),
        (lambda: ITEM % (b"[" + b"1," * 500_000 + b"1]"), 413, "max_message_size"),
        (lambda: ITEM % (b"[" + b"1," * 50_000 + b"]"), 400, "a value is missing"),
    ],
    ids=["arrays", "members", "doubled", "deep", "deep behind white space", "large message", "large item", "escapes",
         "over the channel's limit", "comma"],
)  # fmt: skip
def test_hostile_bodies_are_refused_for_what_they_are(
    http: httpx.Client, body: Callable[[], bytes], status: int, fragment: str
) -> None:
    """Push says of each large body what is wrong with it."""
    code = {400: "malformed", 413: "too_large"}[status]
    assert_problem(http.post("/push", content=body(), headers=JSON), status, code, fragment)


def test_large_messages_pass_byte_for_byte(edge: Server, http: httpx.Client) -> None:
    """Push stores large messages as they came, alone, in an envelope and in an array."""
    text = b'[ "\\ud800", 1e400, "\xc3\xa9", ' + b'[[[[["x"]]]]], {"a": {"b": [1.0]}},' * 1500 + b" 0 ]"
    with connect(f"{edge.ws_url}/chat.large?last=0", max_size=None) as subscriber:
        assert http.post("/push/chat.large", content=text, headers=JSON).status_code == 200
        envelope = b' {"message" : ' + text + b' , "channel": "chat\\u002elarge"} '
        assert http.post("/push", content=envelope, headers=JSON).status_code == 200
        results = http.post("/push", content=b"[" + envelope + b", 1," + envelope + b"]", headers=JSON).json()
        assert [result.get("offset", result.get("code")) for result in results] == [3, "malformed", 4]
        assert {subscriber.recv(timeout=5) for _ in range(4)} == {text.decode()}


def send_until_closed(socket: ClientConnection, text: str) -> None:
    while True:  # the last bytes of the crowd may still be on their way
        socket.send(text)
        socket.recv(timeout=5)


def test_texts_that_are_handled_are_bounded(edge: Server, crowd: list[Wire]) -> None:
    """Socket is closed whose large text cannot be held beside all that clients have sent; a small one is handled."""
    select.select([wire.socket for wire in crowd], [], [], 10)  # the room is taken
    with connect(f"{edge.ws_url}/wide?last=0") as socket:
        socket.send('"small"')
        assert socket.recv(timeout=5) == '"small"'
        with pytest.raises(ConnectionClosed) as closed:
            send_until_closed(socket, '"' + "x" * 900_000 + '"')
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


LARGE = b" " * 100_000


@pytest.mark.parametrize(
    "text",
    [b'{"x":1}', b'{"type":"x"}', b'{"type":"x","type":"x"}', b'{"type":1,"id":[]}', b"[", b'"\xff"'],
)
async def test_texts_that_are_refused_are_forgotten_at_once(text: bytes) -> None:
    """Session and push keep nothing of what they refuse until garbage is collected, which happens seldom."""
    log: Any = Log(STORED)
    registry = Registry((Channel("c"),), Channel("defaults"))
    hub, line = Hub(log, registry), Line("connection", "/ws", None, None)
    session = V1Socket(hub, Doors(Authenticator(AuthSettings())), log, Limiter(), ANONYMOUS, line, V1_FRAMES, None)
    session.begin(Nowhere(), None, None)
    push, reused = routes(log), routes(Log(KeyReusedError("used")))
    gc.collect()
    before = set(map(id, living()))
    gc.disable()
    try:
        for body in (LARGE + text, text):
            with contextlib.suppress(AbideError):
                await session.handle(body)
        for body in (LARGE + text, LARGE + b"[" + text + b"]", LARGE + b"[" + LARGE + text + b"]"):
            await post(push, body)
        await post(push, LARGE + rb'[{"message": 1, "channel": "\ud800"}]')
        await post(reused, LARGE + b'{"channel": "c", "message": 1}')
        assert [kept for kept in living() if id(kept) not in before] == []
    finally:
        gc.enable()


def living() -> list[object]:
    """Return what would hold a text."""
    return [one for one in gc.get_objects() if issubclass(type(one), Scan | HeldBody | AbideError)]


async def post(app: Any, body: bytes) -> None:  # noqa: ANN401 — ASGI
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_: object) -> None:
        pass

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/push", "query_string": b"", "headers": headers, "state": {}}
    await app(scope, receive, send)


async def test_a_body_in_tiny_pieces_takes_what_it_has() -> None:
    """Body that comes in a hundred thousand pieces takes no more memory than its bytes, and room for them to grow."""
    pieces = iter([b"ab"] * 100_000)

    async def receive() -> dict[str, Any]:
        piece = next(pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    body = HeldBody(receive, BoundedIntake(LIMITS.bodies))
    tracemalloc.start()
    assert await body.read(2**20) == b"ab" * 100_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
