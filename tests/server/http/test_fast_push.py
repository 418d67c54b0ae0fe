"""Pushes that have arrived whole: passed to the application without ASGI, and nobody can tell the difference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from app.core.ports import DIRECT, Answer
from app.server.http.request_head_cache import LONGEST_HEAD, MOST_HEADS, RequestHeadCache
from app.wire.request_head import RequestHead
from tests.support.local import LocalServer, wait_for
from tests.support.wire import Wire

HEAD = b"POST /push?q HTTP/1.1\r\nHost: abide\r\nX-A: 1\r\nContent-Length: 3\r\n\r\n"
GET = b"GET /other HTTP/1.1\r\nHost: abide\r\nConnection: close\r\n\r\n"


class Taken(NamedTuple):
    """A push that was taken."""

    head: RequestHead
    client: str | None
    body: bytes
    answer: Answer


class Application:
    """Takes pushes that are whole; ``taken`` has them, the oldest first.

    They are answered at the next turn with their body, or when the test does if ``waits``. What
    comes by ASGI is answered with ``asgi`` and the body.
    """

    server: LocalServer

    def __init__(self, *, waits: bool = False) -> None:
        self.app: object = self
        self.parsed = 0
        self.taken: list[Taken] = []
        self._waits = waits

    def parse(self, head: RequestHead) -> RequestHead | None:
        self.parsed += 1
        return head if head.target.path == "/push" else None

    def direct(self, head: RequestHead, client: str | None, body: bytes, answer: Answer) -> None:
        self.taken.append(Taken(head, client, body, answer))
        if not self._waits:
            loop = self.server.server.servers[0].get_loop()
            loop.call_soon(answer, 200, ((b"X-B", b"2"),), b"direct " + body)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        if scope["type"] == "lifespan":
            await receive()
            scope["state"][DIRECT] = Passing(self)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        event = await receive()
        body = event["body"]
        while event["more_body"]:
            event = await receive()
            body += event["body"]
        answer = b"asgi " + body
        length = (b"content-length", b"%d" % len(answer))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": answer})


class Passing:
    """The application's :class:`~app.core.ports.Direct`."""

    def __init__(self, application: Application) -> None:
        self.app = application.app
        self.parse = application.parse
        self._application = application

    def __call__(self, head: RequestHead, client: str | None, body: bytes, answer: Answer) -> None:
        self._application.direct(head, client, body, answer)


@contextmanager
def serving(*, waits: bool = False, **options: Any) -> Iterator[tuple[Application, LocalServer]]:  # noqa: ANN401 — uvicorn's
    application = Application(waits=waits)
    with LocalServer(application, lifespan="on", **options) as application.server:
        yield application, application.server


@pytest.fixture
def served() -> Iterator[tuple[Application, Wire]]:
    """Serve, and connect."""
    with serving() as (application, server), Wire(server.port) as wire:
        yield application, wire


def ask(wire: Wire, request: bytes, answer: bytes) -> bytes:
    """Send a request, and return the head of its answer, which must end so."""
    wire.send(request)
    return wire.read_until(answer)


def test_a_whole_push_is_passed_on_and_answered(served: tuple[Application, Wire]) -> None:
    """Application is passed a POST that came in one piece, and its answer is one of HTTP."""
    application, wire = served
    head = ask(wire, HEAD + b"abc", b"\r\n\r\ndirect abc")
    assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert b"\r\nx-b: 2\r\ncontent-length: 10\r\n\r\n" in head
    (taken,) = application.taken
    assert (taken.head.target.path, taken.client, taken.body) == ("/push", "127.0.0.1", b"abc")
    assert list(taken.head.headers) == [(b"host", b"abide"), (b"x-a", b"1"), (b"content-length", b"3")]


def test_the_same_head_is_the_same_object(served: tuple[Application, Wire]) -> None:
    """Head that comes again is the same object, whatever the body behind it and the connection; another is another."""
    application, wire = served
    ask(wire, HEAD + b"abc", b"direct abc")
    with Wire(application.server.port) as other:
        ask(other, HEAD + b"def", b"direct def")
    ask(wire, HEAD.replace(b"X-A: 1", b"X-A: 2") + b"ghi", b"direct ghi")
    first, second, third = (taken.head for taken in application.taken)
    assert first is second
    assert third is not second
    assert (b"x-a", b"2") in third.headers


def test_what_is_no_push_is_served_by_asgi(served: tuple[Application, Wire]) -> None:
    """ASGI application serves what is no push, however often it comes."""
    application, wire = served
    for _ in range(2):
        ask(wire, HEAD.replace(b"/push", b"/other") + b"abc", b"\r\n\r\nasgi abc")
        ask(wire, HEAD + b"yes", b"\r\n\r\ndirect yes")
    assert len(application.taken) == 2


@pytest.mark.parametrize(
    "wrap",
    [{"proxy_headers": True}, {"root_path": "/below"}],
    ids=["middleware around it", "below a root path"],
)
def test_an_application_that_is_wrapped_gets_all_requests(wrap: dict[str, Any]) -> None:
    """Server passes nothing by what is put around the application."""
    with serving(**wrap) as (application, server), Wire(server.port) as wire:
        for _ in range(2):
            ask(wire, HEAD + b"abc", b"\r\n\r\nasgi abc")
        assert application.taken == []


def test_an_application_that_is_another_gets_all_requests() -> None:
    """Server passes nothing by an application whose parts alone take pushes."""
    application = Application()
    application.app = object()
    with LocalServer(application, lifespan="on") as application.server, Wire(application.server.port) as wire:
        ask(wire, HEAD + b"abc", b"\r\n\r\nasgi abc")
    assert application.taken == []


@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
@pytest.mark.parametrize("at", [1, len(HEAD) - 1, len(HEAD), len(HEAD) + 2])
def test_a_request_in_two_pieces_is_answered_once(served: tuple[Application, Wire], at: int, *, known: bool) -> None:
    """Request that comes in two pieces is answered once and right, wherever it was cut."""
    application, wire = served
    if known:
        ask(wire, HEAD + b"abc", b"direct abc")
    wire.send((HEAD + b"def")[:at])
    with Wire(application.server.port) as another:  # the server has read the piece when it has answered this twice
        for _ in range(2):
            ask(another, HEAD + b"abc", b"direct abc")
    wire.send((HEAD + b"def")[at:])
    answer = wire.read_until(b"def")
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    ask(wire, HEAD + b"ghi", b"direct ghi")


@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
def test_whole_requests_are_answered_in_order(served: tuple[Application, Wire], *, known: bool) -> None:
    """Requests that come together are answered in their order, by whoever takes them."""
    _, wire = served
    if known:
        ask(wire, HEAD + b"abc", b"direct abc")
    wire.send(HEAD + b"one" + HEAD + b"two" + GET)
    answers = wire.read_rest()
    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers.split(b"HTTP/1.1 200 OK")[1:]] == [
        b"direct one",
        b"direct two",
        b"asgi ",
    ]


def test_a_request_waits_while_another_is_answered() -> None:
    """Request that comes while a whole one is being answered waits for its turn."""
    with serving(waits=True) as (application, server), Wire(server.port) as wire:
        wire.send(HEAD + b"one")
        wait_for(lambda: application.taken)
        wire.send(HEAD + b"two")
        assert not wire.is_closed_within(0.05)
        assert wire.received == b""
        server.call(application.taken[0].answer, 200, (), b"first")
        wire.read_until(b"\r\n\r\nfirst")
        wait_for(lambda: application.taken[1:])
        server.call(application.taken[1].answer, 200, (), b"second")
        wire.read_until(b"\r\n\r\nsecond")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /push HTTP/1.1\r\nHost: abide\r\n\r\n", b"asgi "),
        (HEAD.replace(b"POST", b"PUT") + b"abc", b"asgi abc"),
        (HEAD.replace(b"1.1", b"1.0") + b"abc", b"asgi abc"),
        (HEAD.replace(b"X-A: 1", b"Expect: 100-continue") + b"abc", b"asgi abc"),
    ],
    ids=["GET", "PUT", "HTTP/1.0", "continue"],
)
def test_what_is_no_plain_post_goes_to_asgi_alone(
    served: tuple[Application, Wire], request_: bytes, answer: bytes
) -> None:
    """ASGI application alone is asked what is not a plain POST."""
    application, wire = served
    ask(wire, request_, answer)
    assert application.taken == []


def test_a_push_may_be_the_last_of_its_connection(served: tuple[Application, Wire]) -> None:
    """Push that is its connection's last is answered, and the connection closed."""
    _, wire = served
    wire.send(HEAD.replace(b"X-A: 1", b"Connection: close") + b"abc")
    answer = wire.read_rest()
    assert answer.endswith(b"direct abc")
    assert answer.count(b"connection: close") == 1


def test_a_body_in_chunks_is_passed_on_without_them(served: tuple[Application, Wire]) -> None:
    """Body in chunks is passed on without them, each time it is parsed anew."""
    application, wire = served
    head = HEAD.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked")
    for _ in range(2):
        ask(wire, head + b"3\r\nabc\r\n0\r\n\r\n", b"direct abc")
    assert application.taken[0].head is not application.taken[1].head


def test_a_head_without_a_length_is_whole_by_itself(served: tuple[Application, Wire]) -> None:
    """Head without a length is whole by itself, when it comes again too."""
    application, wire = served
    for _ in range(2):
        ask(wire, HEAD.replace(b"Content-Length: 3\r\n", b""), b"direct ")
    assert [taken.body for taken in application.taken] == [b"", b""]
    assert application.taken[0].head is application.taken[1].head


def test_a_target_that_is_none_is_refused(served: tuple[Application, Wire]) -> None:
    """Request whose target is none is refused."""
    application, wire = served
    wire.send(HEAD.replace(b"/push?q", b"http://[") + b"abc")
    assert wire.read_rest().startswith(b"HTTP/1.1 400 ")
    assert application.taken == []


def test_a_reply_to_a_client_that_has_gone_is_dropped() -> None:
    """Reply to a client that has gone is dropped."""
    with serving(waits=True) as (application, server):
        with Wire(server.port) as wire:
            wire.send(HEAD + b"abc")
            wait_for(lambda: application.taken)
        wait_for(lambda: not server.connections)
        server.call(application.taken[0].answer, 200, (), b"nobody")
        with Wire(server.port) as wire:
            ask(wire, GET, b"asgi ")


def test_a_stop_waits_for_a_whole_requests_answer() -> None:
    """Server that stops waits for a whole request's answer, and lets it be its connection's last."""
    with serving(waits=True) as (application, server), Wire(server.port) as wire:
        wire.send(HEAD + b"abc")
        wait_for(lambda: application.taken)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        wait_for(lambda: not server.server.servers[0].is_serving())  # then connections are told, too
        server.call(application.taken[0].answer, 200, (), b"last")
        answer = wire.read_rest()
        stopping.join()
    assert b"\r\nconnection: close\r\n\r\nlast" in answer


def test_an_answer_that_says_it_is_the_last_is_the_last() -> None:
    """Answer that says by its default headers that it is the last says so once, and is."""
    with serving(headers=[("connection", "close")]) as (_, server), Wire(server.port) as wire:
        wire.send(HEAD + b"abc")
        answer = wire.read_rest()
    assert answer.endswith(b"direct abc")
    assert answer.count(b"connection: close") == 1


def test_the_number_and_length_of_remembered_heads_is_bounded() -> None:
    """Cache forgets heads when it knows too many, and never learns a long one."""
    cache: RequestHeadCache[str] = RequestHeadCache()

    def head(number: int) -> bytes:
        return b"POST /push HTTP/1.1\r\nX-A: %d\r\nContent-Length: 3\r\n\r\n" % number

    for number in range(MOST_HEADS + 1):
        cache.remember(head(number) + b"abc", "parsed", b"abc")
    assert cache.find(head(0) + b"abc") is None
    assert cache.find(head(MOST_HEADS) + b"def") == ("parsed", b"def")
    assert cache.find(head(MOST_HEADS) + b"defg") is None
    long = head(0).replace(b"X-A: 0", b"X-A: " + b"x" * LONGEST_HEAD)
    cache.remember(long + b"abc", "parsed", b"abc")
    assert cache.find(long + b"abc") is None
