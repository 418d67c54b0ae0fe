"""The Python client, against real servers and against one that says what a test tells it to."""

import asyncio
import contextlib
import http
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from websockets.asyncio.server import Server as ScriptedServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from app.client import NOWHERE, ClientError, Gap, Message, Undecodable, publish, subscribe, waits
from app.client.client_error import CLOSED
from app.client.waits import backoff
from app.core.errors import CLOSE_CODES
from tests.conftest import ServerFactory
from tests.support.processes import free_port
from tests.support.proxy import FaultProxy
from tests.support.server import Server

CHANNELS = """
backend: memory://
auth: {keys: "first-key-1"}
channels:
  lebowski: {publish: anyone}
  sealed: {publish: key}
  "chat.{room}": {publish: anyone}
"""

Script = list[Callable[[ServerConnection], Awaitable[None]]]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(channels=CHANNELS) as server:
        yield server.url


async def take(messages: AsyncIterator[Message], count: int) -> list[Message]:
    return [await anext(messages) for _ in range(count)]


def frame(kind: str, **members: object) -> str:
    return json.dumps({"type": kind, "channel": "x", **members})


def message(position: str | None) -> str:
    return frame("message", position=position, time=1, data=position)


class Scripted:
    """A server that treats its n-th connection as the n-th function says, and notes what each asked for."""

    def __init__(self, *script: Callable[[ServerConnection], Awaitable[None]]) -> None:
        self.script = list(script)
        self.asked: list[dict[str, list[str]]] = []

    async def __call__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.asked.append(parse_qs(urlsplit(socket.request.path).query))
        await self.script.pop(0)(socket)


@contextlib.asynccontextmanager
async def scripted(script: Scripted, **options: object) -> AsyncIterator[str]:
    subprotocols = [Subprotocol("abide.v1")]
    server: ScriptedServer
    async with serve(script, "127.0.0.1", 0, subprotocols=subprotocols, **options) as server:  # type: ignore[arg-type]  # options
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def saying(*frames: str, close: int = 0) -> Callable[[ServerConnection], Awaitable[None]]:
    """Send these frames, then close with a code, or cut the connection without one."""

    async def speak(socket: ServerConnection) -> None:
        for one in frames:
            await socket.send(one)
        if close:
            await socket.close(close, "because")
        else:
            socket.transport.close()  # after what was written

    return speak


async def test_a_subscriber_gets_what_is_published(url: str) -> None:
    """Subscriber gets each message with its channel, position, time and parsed data."""
    first = await publish(url, "lebowski", {"the": "Dude"})
    messages = subscribe(url, "lebowski", since="earliest")
    (got,) = await take(messages, 1)
    assert got == Message("lebowski", first, got.time, {"the": "Dude"})
    assert got.time > 1_600_000_000_000
    second = await publish(url, "lebowski", "ab\u00e9\ud800")
    assert (await take(messages, 1))[0][1::2] == (second, "ab\u00e9\ud800")
    await messages.aclose()


@pytest.mark.parametrize(("begin", "expected"), [({"since": "earliest"}, [1, 2, 3]), ({"last": 2}, [2, 3])])
async def test_a_subscriber_begins_where_it_says(url: str, begin: dict[str, object], expected: list[int]) -> None:
    """Subscriber begins with the oldest message, or with the newest ones."""
    room = f"chat.begin-{len(expected)}"
    for data in (1, 2, 3):
        await publish(url, room, data)
    async with contextlib.aclosing(subscribe(url, room, **begin)) as messages:  # type: ignore[arg-type]  # either
        got = await take(messages, len(expected))
    assert [one.data for one in got] == expected
    async with contextlib.aclosing(subscribe(url, room, since=got[-2].position)) as messages:
        assert (await take(messages, 1))[0].data == 3


async def test_numbers_of_any_length_do_not_end_a_subscription(url: str) -> None:
    """Subscriber gets integers that Python refuses to read as what a float makes of them."""
    async with httpx.AsyncClient(base_url=url) as server:
        await server.post("/push/chat.digits", content=b"1" * 5000, headers={"Content-Type": "application/json"})
    async with contextlib.aclosing(subscribe(url, "chat.digits", since="earliest")) as messages:
        assert (await take(messages, 1))[0].data == float("inf")


def exact(offset: int, raw: str) -> str:
    """Return a message as the server writes it: its data byte for byte."""
    return f'{{"type":"message","channel":"x","position":"e:{offset}","time":1,"data":{raw}}}'


DEEP = "[" * 1200 + "]" * 1200


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (' {"b" : 1E400,\n"a":1.10} ', {"b": float("inf"), "a": 1.1}),
        ("[12345678901234567890123]", [12345678901234567890123]),
        ("-" + "1" * 5000, float("-inf")),
        ('"\\ud800"', "\ud800"),
        (DEEP, DEEP),
        ("NaN", "NaN"),
        ('{"no": JSON', '{"no": JSON'),
    ],
)
async def test_any_data_is_a_message(raw: str, data: object) -> None:
    """Subscriber gets whatever is in the log as it was written, decoded as far as Python can, and what follows."""
    server = Scripted(saying(exact(1, raw), exact(2, "2")))
    async with scripted(server) as url, contextlib.aclosing(subscribe(url, "x")) as messages:
        first, second = await take(messages, 2)
    assert (first.raw, first.data, second.data) == (raw, data, 2)
    assert isinstance(first.data, Undecodable) is (raw == data)


async def test_bytes_are_published_as_they_are(url: str) -> None:
    """Publisher that gives bytes has them stored byte for byte."""
    raw = b'{"b": 1e400, "a": 12345678901234567890.10}'
    await publish(url, "chat.bytes", raw)
    async with contextlib.aclosing(subscribe(url, "chat.bytes", last=1)) as messages:
        assert (await anext(messages)).raw.encode() == raw


@pytest.mark.parametrize(
    ("attempt", "status", "code"),
    [
        (lambda url: publish(url, "sealed", 1), 401, "unauthorised"),
        (lambda url: publish(url, "nope", 1), 404, "unknown_channel"),
        (lambda url: publish(url, "ws/../health/live", 1), 404, "unknown_channel"),
        (lambda url: publish(url, "lebowski", 1, key="a\nb"), None, None),
        (lambda _: publish("localhost:8000", "lebowski", 1), None, None),
        (lambda _: publish("http://localhost:x", "lebowski", 1), None, None),
        (lambda url: anext(subscribe(url, "nope")), 404, "unknown_channel"),
        (lambda url: anext(subscribe(url, "lebowski", since="x")), 400, "malformed"),
        (lambda url: anext(subscribe(url, "lebowski", last=-1)), 400, "malformed"),
        (lambda url: anext(subscribe(url, "echo")), None, None),
    ],
)
async def test_a_refusal_is_an_error(
    url: str, attempt: Callable[[str], Awaitable[object]], status: int | None, code: str | None
) -> None:
    """Client raises what the server answers, its detail and its code, and does not try again."""
    with pytest.raises(ClientError) as refused:
        await attempt(url)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert str(refused.value)


async def test_a_key_opens_a_channel_and_an_idempotency_key_stores_once(url: str) -> None:
    """Publisher with a key is let in, and with an idempotency key gets the same position again."""
    positions = [await publish(url, "sealed", 1, key="first-key-1", idempotency_key="once") for _ in range(2)]
    assert positions[0] == positions[1]


async def test_a_removed_channel_ends_the_subscription(server_factory: ServerFactory) -> None:
    """Subscriber of a channel that is taken out of the file gets an error, and stops."""
    server = server_factory(channels="channels: {a: {publish: anyone}, b: {publish: anyone}}\n")
    position = await publish(server.url, "a", 1)
    messages = subscribe(server.url, "a", since="earliest")
    assert (await anext(messages)).position == position
    server.write_channels("channels: {b: {publish: anyone}}\n")
    with pytest.raises(ClientError) as ended:
        await anext(messages)
    assert (ended.value.status, ended.value.code) == (4404, "channel_removed")


async def test_a_new_life_of_the_log_is_a_gap() -> None:
    """Subscriber of a memory:// server that was restarted is told of the gap, then gets what is held now."""
    port, gaps, notices = free_port(), list[Gap](), list[str]()
    servers = [Server(channels=CHANNELS, env={"PORT": str(port)}) for _ in range(2)]
    for server in servers:
        server.port = port
    messages = subscribe(servers[0].url, "lebowski", since="earliest", on_gap=gaps.append, on_notice=notices.append)
    with servers[0]:
        old = await publish(servers[0].url, "lebowski", "old")
        assert (await anext(messages)).position == old
    following = asyncio.ensure_future(anext(messages))
    with servers[1]:
        new = await publish(servers[1].url, "lebowski", "new")
        assert (await following).position == new
        await messages.aclose()
    assert gaps == [Gap("lebowski", old, new, "epoch")]
    assert [notice.partition(":")[0].partition(",")[0] for notice in notices] == ["not connected", "connected again"]


async def test_a_drop_before_the_first_message_leaves_no_hole() -> None:
    """Subscriber that lost its connection before any message goes on from where that one stood."""
    server = Scripted(
        saying(frame("subscribed", position="e:7", resumed=False)),
        saying(frame("subscribed", position="e:7", resumed=True), message("e:8")),
        saying(frame("subscribed", position="e:8", resumed=True), message("e:9")),
    )
    async with scripted(server) as url, contextlib.aclosing(subscribe(url, "x", last=3)) as messages:
        assert [one.position for one in await take(messages, 2)] == ["e:8", "e:9"]
    assert [asked.get("since") for asked in server.asked] == [None, ["e:7"], ["e:8"]]


async def test_a_gap_is_told_once_whenever_the_connection_drops() -> None:
    """Subscriber whose connection drops around a gap is told of it once, and never misses it."""
    server = Scripted(
        saying(frame("subscribed", position="e:4", resumed=False)),
        saying(
            frame("subscribed", position="e:4", resumed=False), frame("gap", after="e:1", next="e:5", reason="expired")
        ),
        saying(frame("subscribed", position="e:4", resumed=True), message("e:5")),
    )
    gaps: list[Gap] = []
    async with (
        scripted(server) as url,
        contextlib.aclosing(subscribe(url, "x", since="e:1", on_gap=gaps.append)) as messages,
    ):
        assert (await anext(messages)).position == "e:5"
    assert [asked["since"] for asked in server.asked] == [["e:1"], ["e:1"], ["e:4"]]
    assert gaps == [Gap("x", "e:1", "e:5", "expired")]


async def test_a_server_without_positions_is_asked_for_the_gap() -> None:
    """Subscriber of a server that keeps nothing comes back from nowhere, and so is told of each interruption."""
    began = frame("subscribed", position=None, resumed=False)
    gap = frame("gap", after=NOWHERE, next=None, reason="epoch")
    server = Scripted(saying(began, message(None)), saying(began, gap), saying(began, gap, message(None)))
    gaps: list[Gap] = []
    async with (
        scripted(server) as url,
        contextlib.aclosing(subscribe(url, "x", on_gap=gaps.append)) as messages,
    ):
        assert [one.position for one in await take(messages, 2)] == [NOWHERE, NOWHERE]
    assert [asked.get("since") for asked in server.asked] == [None, [NOWHERE], [NOWHERE]]
    assert gaps == [Gap("x", NOWHERE, NOWHERE, "epoch")] * 2


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 1013, 4429])
async def test_a_passing_close_is_followed_by_a_connection(code: int) -> None:
    """Subscriber connects again after a close that passes."""
    began = frame("subscribed", position="e:0", resumed=True)
    server = Scripted(saying(began, close=code), saying(began, message("e:1")))
    async with scripted(server) as url, contextlib.aclosing(subscribe(url, "x")) as messages:
        assert (await anext(messages)).position == "e:1"


@pytest.mark.parametrize("code", [1002, 1003, 1009, 4400, 4401, 4403, 4404, 4408, 4410])
async def test_a_lasting_close_is_an_error(code: int) -> None:
    """Subscriber stops at a close that another connection would not mend."""
    server = Scripted(saying(close=code))
    async with scripted(server) as url:
        with pytest.raises(ClientError, match="because") as ended:
            await anext(subscribe(url, "x"))
    assert ended.value.status == code


def saying_no_more(*frames: str) -> Callable[[ServerConnection], Awaitable[None]]:
    """Send these frames, and then nothing, on a connection that stays open."""

    async def speak(socket: ServerConnection) -> None:
        for one in frames:
            await socket.send(one)
        await socket.wait_closed()

    return speak


ODD_FRAMES = (
    "hello",
    "null",
    "[]",
    "{}",
    frame("message", time=1, data=1),
    frame("subscribed"),
    frame("heartbeat"),
    frame("heartbeat", seconds="many"),
    frame("gap", after="e:1", reason="expired"),
    frame("gap", after="e:1", next="5", reason="expired"),
    frame("gap", after="e:1", next=5, reason="expired"),
)


async def test_what_is_no_frame_ends_a_connection_and_not_the_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriber that reads what no server of ours writes connects again, and goes on where it was."""
    monkeypatch.setattr(waits, "BASE", 0.0)
    began = frame("subscribed", position="e:0", resumed=True)
    server = Scripted(*(saying_no_more(began, odd) for odd in ODD_FRAMES), saying(began, message("e:1")))
    notices: list[str] = []
    async with (
        scripted(server) as url,
        contextlib.aclosing(subscribe(url, "x", on_notice=notices.append)) as messages,
    ):
        assert (await anext(messages)).position == "e:1"
    assert [asked.get("since") for asked in server.asked[1:]] == [["e:0"]] * len(ODD_FRAMES)
    assert len([said for said in notices if "no frame of abide.v1" in said]) == len(ODD_FRAMES)


async def test_two_missing_heartbeats_end_a_connection() -> None:
    """Subscriber whose connection goes mute opens another and resumes, and is told why."""
    heartbeat, began = frame("heartbeat", seconds=0.2), frame("subscribed", position="e:0", resumed=True)
    server = Scripted(saying_no_more(heartbeat, began, exact(1, "1")), saying(heartbeat, began, exact(2, "2")))
    notices: list[str] = []
    async with (
        scripted(server) as url,
        contextlib.aclosing(subscribe(url, "x", on_notice=notices.append)) as messages,
    ):
        assert [one.data for one in await take(messages, 2)] == [1, 2]
    assert [asked.get("since") for asked in server.asked] == [None, ["e:1"]]
    assert "nothing came for 0.4 s" in notices[0]


async def test_a_server_without_heartbeats_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriber to an older server stays, however long no message comes."""
    monkeypatch.setattr(waits, "OPEN_SECONDS", 0.3)

    async def be_slow(socket: ServerConnection) -> None:
        await socket.send(frame("subscribed", position="e:0", resumed=True))
        await asyncio.sleep(0.6)
        await socket.send(exact(1, "1"))

    server = Scripted(be_slow)
    async with scripted(server) as url, contextlib.aclosing(subscribe(url, "x")) as messages:
        assert (await anext(messages)).data == 1


async def test_a_network_that_says_nothing_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriber and publisher whose connections are accepted and never answered try again until they are."""
    monkeypatch.setattr(waits, "OPEN_SECONDS", 0.5)
    monkeypatch.setattr(waits, "ANSWER_SECONDS", 0.5)
    async with FaultProxy("127.0.0.1", urlsplit(url).port or 0) as network:
        network.half_open()
        way, notices = f"http://127.0.0.1:{network.port}", list[str]()
        messages = subscribe(way, "chat.silent", since="earliest", on_notice=notices.append)
        following = asyncio.ensure_future(anext(messages))
        publishing = asyncio.ensure_future(publish(way, "chat.silent", 1))
        await network.wait_accepted(5)
        network.heal()
        assert (await following).position == await publishing
        await messages.aclose()
    assert notices[0].startswith("not connected: ")


async def test_what_a_callback_raises_ends_the_subscription() -> None:
    """Subscriber whose on_gap raises gets that error, even one that looks like the connection's."""

    def stop(_: Gap) -> None:
        raise ConnectionError

    server = Scripted(saying(frame("gap", after="e:1", next="e:5", reason="expired")))
    async with scripted(server) as url:
        with pytest.raises(ConnectionError):
            await anext(subscribe(url, "x", since="e:1", on_gap=stop))


async def test_an_overloaded_server_is_asked_again() -> None:
    """Subscriber that is refused for the moment comes again, no sooner than Retry-After says."""
    statuses, times = [408, 502, 429, 503], list[float]()

    def busy(socket: ServerConnection, _: Request) -> Response | None:
        times.append(asyncio.get_running_loop().time())
        if not statuses:
            return None
        answer = socket.respond(http.HTTPStatus(statuses.pop(0)), "busy")
        if not statuses:
            answer.headers["Retry-After"] = formatdate(time.time() + 2, usegmt=True)
        elif len(statuses) == 1:
            answer.headers["Retry-After"] = "1"
        return answer

    server = Scripted(saying(message("e:1")))
    async with (
        scripted(server, process_request=busy) as url,
        contextlib.aclosing(subscribe(url, "x")) as messages,
    ):
        await anext(messages)
    assert times[3] - times[2] >= 1
    assert times[4] - times[3] >= 0.9  # a date has whole seconds


async def test_a_redirect_is_an_error_that_names_the_address() -> None:
    """Subscriber and publisher that are sent to another address say which, for the user to take."""
    moved = b"HTTP/1.1 301 Moved\r\nLocation: https://abide.example/x\r\nContent-Length: 0\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(moved)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for trying in (anext(subscribe(url, "x")), publish(url, "x", 1)):
            with pytest.raises(ClientError, match=r"redirects to https://abide\.example/x"):
                await trying


async def test_a_publisher_tries_again_with_the_same_key() -> None:
    """Publisher repeats what was cut off or put off, with one idempotency key of its own making."""
    answers = [b"", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
    answers.append(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"position":"e:1"}')
    keys: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        keys.extend(line for line in head.splitlines() if line.lower().startswith(b"idempotency-key"))
        await reader.readexactly(1)
        writer.write(answers.pop(0))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await publish(f"http://127.0.0.1:{port}", "x", 1) == "e:1"
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_a_publisher_gives_up_in_the_end() -> None:
    """Publisher that reaches nobody raises when its patience is over."""
    began = asyncio.get_running_loop().time()
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ClientError, match=f"^cannot reach {url}: Connection refused$"):
        await publish(url, "x", 1, patience=0.5)
    assert asyncio.get_running_loop().time() - began < 5


@pytest.mark.parametrize("turns", range(8))
async def test_a_publisher_that_is_cancelled_ends(turns: int) -> None:
    """Publisher ends when it is cancelled, also in the turn of the event loop in which an attempt has just failed."""
    publishing = asyncio.create_task(publish(f"http://127.0.0.1:{free_port()}", "lebowski", 1))
    await asyncio.sleep(0)
    time.sleep(0.02)  # noqa: ASYNC251 — the attempt fails in its thread, and the loop has yet to hear of it
    for _ in range(turns):
        await asyncio.sleep(0)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_a_publisher_that_gives_up_says_what_the_server_said() -> None:
    """Publisher whose last attempt has no answer in time raises what the server answered before."""
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 57\r\n\r\n"
    answers = [busy + b'{"detail": "the database is away", "code": "unavailable"}']

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0) if answers else b"")
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ClientError, match="the database is away"):
            await publish(f"http://127.0.0.1:{port}", "x", 1, patience=0.5)
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    assert len(writers) == 2


def test_pauses_are_jittered_and_bounded() -> None:
    """Backoff is anywhere between nothing and a bound that doubles up to five seconds, however often it was tried."""
    for attempt in (0, 1, 3, 5, 6, 5000):
        pauses = [backoff(attempt) for _ in range(500)]
        bound = min(5, 0.1 * 2 ** min(attempt, 10))
        assert 0 <= min(pauses) < bound / 4
        assert bound * 3 / 4 < max(pauses) <= bound


def test_close_codes_are_the_servers() -> None:
    """Codes that the client gives to closes are those of the server's table."""
    assert {int(close): code for code, close in CLOSE_CODES.items() if close >= 4000} == CLOSED
