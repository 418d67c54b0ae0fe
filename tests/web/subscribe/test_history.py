"""History as it leaves: page by page, as its client takes it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.core.channel import Channel, Registry
from app.core.delivery.hub import Hub
from app.core.errors import UnavailableError
from app.core.limits.limiter import Limiter
from app.core.message import Message, Page
from app.core.rights.policy import ANONYMOUS
from app.web.edge.request import query_of
from app.web.subscribe.history import HistoryReader
from tests.support.server import Server
from tests.web.publish.test_push import JSON

PAGE = 3
HEAD = 10


class Paged:
    """A log of ten messages that is read three at a time. Meanwhile it may expire, change its epoch or be away."""

    def __init__(self) -> None:
        self.first = 1
        self.reads = 0
        self.epoch = "e"
        self.is_away = False
        self.without_data: set[int] = set()

    async def read(self, _: str, after: int, limit: int, __: object) -> Page:
        if self.is_away:
            msg = "the database is away"
            raise UnavailableError(msg)
        if limit:
            self.reads += 1
        begin = max(after + 1, self.first)
        offsets = range(begin, min(begin + min(limit, PAGE), HEAD + 1))
        return Page(self.first, HEAD, tuple(self.message(offset) for offset in offsets), self.epoch)

    def message(self, offset: int) -> Message:
        return Message(offset, 0, b"" if offset in self.without_data else b"%d" % offset)


class Client:
    """An ASGI client that takes one piece of the answer after the other, when it is told to."""

    def __init__(self, log: Any, query: str = "", method: str = "GET") -> None:  # noqa: ANN401 — a source
        self.scope: dict[str, Any] = {"type": "http", "method": method, "query_string": query.encode()}
        self.events: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._room = asyncio.Semaphore(0)
        self._log = log

    async def run(self) -> None:
        """Ask, and take what comes."""
        channel = Channel("c")
        hub = Hub(self._log, Registry((channel,), channel))
        history = HistoryReader(hub, self._log, Limiter().places)
        answer = await history.answer(
            "c", channel, ANONYMOUS, query_of(self.scope["query_string"]), self.scope, self._receive
        )
        await answer(self.scope, self._receive, self._send)

    def take(self, pieces: int = 100) -> None:
        """Take so many pieces more."""
        for _ in range(pieces):
            self._room.release()

    @property
    def body(self) -> bytes:
        """What has come of it."""
        return b"".join(event.get("body", b"") for event in self.events)

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Any) -> None:  # noqa: ANN401 — ASGI's
        self.events.append(event)
        await self._room.acquire()
        await asyncio.sleep(0)


async def whole(log: Paged, query: str = "", method: str = "GET") -> Client:
    client = Client(log, query, method)
    client.take()
    await client.run()
    return client


async def settle() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("query", "offsets"),
    [("", range(1, 11)), ("limit=7", range(1, 8)), ("since=e:8", range(9, 11)), ("since=e:10", ()), ("limit=0", ())],
)
async def test_pages_make_one_answer(query: str, offsets: range) -> None:
    """History of several pages is the JSON that one page would be."""
    answer = json.loads((await whole(Paged(), query)).body)
    assert [message["offset"] for message in answer.pop("messages")] == list(offsets)
    assert answer == {"epoch": "e", "first": 1, "last": HEAD, "complete": True}


async def test_offsets_without_a_message_are_in_no_answer() -> None:
    """History leaves out offsets without a message, whole pages of them too, and is complete."""
    log = Paged()
    log.without_data = {1, 2, 3, 5, 7, 8, 9}
    answer = json.loads((await whole(log)).body)
    assert [message["offset"] for message in answer["messages"]] == [4, 6, 10]
    assert answer["complete"] is True


async def test_history_that_fits_a_page_is_one_piece() -> None:
    """History says its length where it is known, and no other does."""
    start, body = (await whole(Paged(), "since=e:8")).events
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    start, *_ = (await whole(Paged())).events
    assert b"content-length" not in dict(start["headers"])


@pytest.mark.parametrize("query", ["", "since=e:8"])
async def test_head_of_a_history_has_the_headers_of_get(query: str) -> None:
    """History answers HEAD with the headers of GET, reads one page, and sends no body."""
    log = Paged()
    start, body = (await whole(log, query, "HEAD")).events
    assert (body["body"], body["more_body"], log.reads) == (b"", False, 1)
    assert start == (await whole(Paged(), query)).events[0]


async def test_history_is_read_as_it_is_taken() -> None:
    """History reads no page before its client has taken the one before."""
    log = Paged()
    client = Client(log)
    running = asyncio.create_task(client.run())
    for pages in (1, 1, 2, 3):
        await settle()
        assert log.reads == pages
        client.take(1)
    client.take()
    await running


async def test_history_stops_when_its_client_goes() -> None:
    """History reads no more when nobody takes it."""
    log = Paged()
    client = Client(log)
    running = asyncio.create_task(client.run())
    client.take(1)
    await settle()
    client.gone.set()
    client.take()
    await running
    assert log.reads <= 2


async def test_history_whose_messages_expire_between_two_pages_is_not_complete() -> None:
    """History says that messages are missing that expired before they could be read."""
    log = Paged()
    client = Client(log)
    running = asyncio.create_task(client.run())
    client.take(1)
    await settle()
    log.first = 6
    client.take()
    await running
    answer = json.loads(client.body)
    assert [message["offset"] for message in answer["messages"]] == [1, 2, 3, 6, 7, 8, 9, 10]
    assert (answer["first"], answer["last"], answer["complete"]) == (6, HEAD, False)


@pytest.mark.parametrize(("name", "value"), [("epoch", "f"), ("is_away", True)])
async def test_history_that_cannot_be_read_on_ends_early(name: str, value: object) -> None:
    """History ends with what it has, and says that there is more, when its log changes or goes away meanwhile."""
    log = Paged()
    client = Client(log)
    running = asyncio.create_task(client.run())
    client.take(1)
    await settle()
    setattr(log, name, value)
    client.take()
    await running
    answer = json.loads(client.body)
    assert [message["position"] for message in answer.pop("messages")] == ["e:1", "e:2", "e:3"]
    assert answer == {"epoch": "e", "first": 1, "last": HEAD, "complete": True}


def test_a_large_history_is_one_json_answer(edge: Server, http: httpx.Client) -> None:
    """History of megabytes is read as one answer, and its HEAD has no body."""
    items = [{"channel": "chat.history", "message": [number, "x" * 20_000]} for number in range(300)]
    assert http.post("/push", content=json.dumps(items), headers=JSON).status_code == 200
    url = f"{edge.url}/chat.history/history?limit=1000"
    answer = httpx.get(url).json()
    assert [message["data"][0] for message in answer["messages"]] == list(range(300))
    assert (answer["first"], answer["last"], answer["complete"]) == (1, 300, True)
    assert httpx.head(url).content == b""
