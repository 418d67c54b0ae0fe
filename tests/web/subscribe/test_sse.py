"""Server-Sent Events, history and long-polling."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.server import Server
from tests.support.wire import Wire
from tests.web.publish.test_push import assert_problem

REMOVABLE = "backend: memory://\nchannels: {going: {publish: anyone}}\n"
IMPATIENT = "backend: memory://\nchannels: {hasty: {publish: anyone, slow_subscriber: disconnect}}\n"

ACCEPT = {"accept": "text/event-stream"}


class Stream:
    """An event stream, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def event(self) -> dict[str, str]:
        """Return the fields of the next event."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line and fields:
                return fields
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        return fields


@contextmanager
def stream(http: httpx.Client, path: str, **headers: str) -> Iterator[Stream]:
    with http.stream("GET", path, headers={**ACCEPT, **headers}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = Stream(response)
        assert stream.event() == {"retry": "2000"}
        yield stream


@pytest.fixture
def publisher(edge: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=edge.url, timeout=10) as client:
        yield client


def push(publisher: httpx.Client, channel: str, *messages: object) -> list[str]:
    return [publisher.post(f"/push/{channel}", json=message).json()["position"] for message in messages]


def test_each_message_is_an_event_with_its_position(http: httpx.Client, publisher: httpx.Client) -> None:
    """Stream begins with where it stands, then has the position as id and the message as data."""
    (before,) = push(publisher, "chat.sse1", 0)
    with stream(http, "/chat.sse1") as events:
        assert events.event() == {"id": before}
        (position,) = push(publisher, "chat.sse1", {"a": [1]})
        assert events.event() == {"id": position, "data": '{"a":[1]}'}


def test_line_breaks_between_tokens_become_spaces(http: httpx.Client, publisher: httpx.Client) -> None:
    """Stream writes JSON of several lines, whatever ends them, as one line that means the same."""
    with stream(http, "/chat.sse2") as events:
        events.event()
        body = b'{\n"a":\r1,\r\n"b": "\\n"}'
        publisher.post("/push/chat.sse2", content=body, headers={"content-type": "application/json"})
        assert events.event()["data"] == '{ "a": 1,  "b": "\\n"}'


def test_the_last_event_id_goes_before_the_query(http: httpx.Client, publisher: httpx.Client) -> None:
    """Stream resumes after Last-Event-ID, which EventSource sends by itself, else after ``since``."""
    positions = push(publisher, "chat.sse3", 1, 2, 3)
    with stream(http, f"/chat.sse3?since={positions[0]}") as events:
        assert events.event() == {"id": positions[0]}
        assert [events.event()["data"] for _ in range(2)] == ["2", "3"]
    with stream(http, f"/chat.sse3?since={positions[0]}", **{"last-event-id": positions[1]}) as events:
        events.event()
        assert events.event()["data"] == "3"


def test_polyfills_resume_by_a_parameter(http: httpx.Client, publisher: httpx.Client) -> None:
    """Stream resumes after the last event ID in the query, however it is spelled: before ``since``, not the header."""
    first, second, third = push(publisher, "chat.polyfill", 1, 2, 3)
    for name in ("lastEventId", "lastEventID", "last-event-id", "Last-Event-Id", "last_event_id", "evs_last_event_id"):
        with stream(http, f"/chat.polyfill?since={first}&{name}={second}&last=9") as events:
            assert events.event() == {"id": second}
            assert events.event()["data"] == "3"
    with stream(http, f"/chat.polyfill?lastEventId=&since={second}&lastEventId={first}") as events:
        assert events.event() == {"id": first}
    with stream(http, f"/chat.polyfill?lastEventId=&since={second}") as events:
        assert events.event() == {"id": second}
    with stream(http, f"/chat.polyfill?lastEventId={first}", **{"last-event-id": third}) as events:
        assert events.event() == {"id": third}


def test_a_heartbeat_can_be_seen(http: httpx.Client) -> None:
    """Stream that is asked for heartbeats says at its beginning when the next one comes; any other word is refused."""
    with http.stream("GET", "/chat.beat?heartbeat=true", headers=ACCEPT) as response:
        events = Stream(response)
        assert events.event() == {"retry": "2000"}
        assert events.event() == {"event": "heartbeat", "data": '{"type":"heartbeat","seconds":15}'}
        assert "id" in events.event()
    assert_problem(http.get("/chat.beat?heartbeat=often", headers=ACCEPT), 400, "malformed")


@pytest.mark.parametrize("given", ["old:7", "not one of ours"])
def test_an_event_id_that_is_not_ours_is_a_gap(http: httpx.Client, publisher: httpx.Client, given: str) -> None:
    """Stream tells of a gap in-band, with the first id that moves on, and then sends what is held."""
    (position,) = push(publisher, f"chat.sse4{len(given)}", 1)
    with stream(http, f"/chat.sse4{len(given)}", **{"last-event-id": given}) as events:
        gap, message = events.event(), events.event()
        assert gap["event"] == "gap"
        assert gap["id"] == f"{position.partition(':')[0]}:0"
        assert f'"after":"{given}"' in gap["data"]
        assert '"reason":"epoch"' in gap["data"]
        assert message["data"] == "1"


def test_the_stream_of_a_removed_channel_ends() -> None:
    """Stream says that its channel was removed, and ends as a response ends."""
    with (
        Server(channels=REMOVABLE) as server,
        httpx.Client(base_url=server.url, timeout=10) as client,
        stream(client, "/going") as events,
    ):
        events.event()
        server.write_channels(REMOVABLE.replace("going", "staying"))
        closed = events.event()
        assert closed["event"] == "closed"
        assert json.loads(closed["data"])["code"] == 4404
        assert events.event() == {}


def test_a_stream_is_one_line_in_the_log(edge: Server, http: httpx.Client, publisher: httpx.Client) -> None:
    """Stream is one line in the log, written when it ends, with how many messages it was sent."""
    with stream(http, "/chat.line") as events:
        events.event()
        push(publisher, "chat.line", 1, 2, 3)
        assert [events.event()["data"] for _ in range(3)] == ["1", "2", "3"]
        assert not [line for line in edge.log if line.get("path") == "/chat.line"]
    http.close()
    line = edge.wait_log(lambda line: line.get("path") == "/chat.line")
    assert (line["event"], line["status"], line["messages"], line["close_code"]) == ("request", 200, 3, 1006)
    assert "bytes" not in line


def test_a_stream_that_is_read_late_has_every_message(http: httpx.Client, publisher: httpx.Client) -> None:
    """Stream that is read only after megabytes were published has every message, once and in order."""
    data = "x" * 60_000
    with stream(http, "/chat.slow") as events:
        events.event()
        for first in range(0, 400, 50):
            items = [{"channel": "chat.slow", "message": [number, data]} for number in range(first, first + 50)]
            assert publisher.post("/push", json=items).status_code == 200
        assert [json.loads(events.event()["data"])[0] for _ in range(400)] == list(range(400))


def test_a_stream_that_is_too_slow_is_told_why_it_ends() -> None:
    """Stream that is too slow for its channel has every message up to some, is told why it ends, and ends in order."""
    data = "x" * 60_000
    with (
        Server(channels=IMPATIENT) as server,
        httpx.Client(base_url=server.url, timeout=10) as publisher,
        httpx.Client(base_url=server.url, timeout=10) as client,
        stream(client, "/hasty") as events,
    ):
        events.event()
        for first in range(0, 400, 50):
            items = [{"channel": "hasty", "message": [number, data]} for number in range(first, first + 50)]
            assert publisher.post("/push", json=items).status_code == 200
        got = []
        while (event := events.event()).get("event") != "closed":
            got.append(json.loads(event["data"])[0])
        assert json.loads(event["data"])["code"] == 1013
        assert events.event() == {}
    assert got == list(range(len(got)))
    assert len(got) < 400


def test_event_streams_work_over_http_1_0() -> None:
    """Stream over HTTP/1.0 has no chunks: its events stand in the body as they are."""
    with Server() as server, httpx.Client(base_url=server.url, timeout=10) as publisher, Wire(server.port) as wire:
        wire.send(b"GET /chat.old HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
        assert b"chunked" not in wire.read_head()
        wire.read_until(b":0\n\n")
        (position,) = push(publisher, "chat.old", 1)
        assert wire.read_until(b"data: 1\n\n") == f"id: {position}\ndata: 1\n\n".encode()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nope", 404, "unknown_channel"),
        ("/lebowski?since=x", 400, "malformed"),
        ("/lebowski?last=x", 400, "malformed"),
    ],
)
def test_a_stream_that_cannot_be_is_a_problem(http: httpx.Client, path: str, status: int, code: str) -> None:
    """Server refuses a stream as it refuses any request."""
    assert_problem(http.get(path, headers=ACCEPT), status, code)


def test_the_history_is_read_from_the_oldest_or_after_a_position(publisher: httpx.Client) -> None:
    """History answers messages in order, with the ends of what is held."""
    positions = push(publisher, "chat.h1", "a", "b", "c")
    history = publisher.get("/chat.h1/history").json()
    assert [(m["position"], m["offset"], m["data"]) for m in history["messages"]] == list(
        zip(positions, (1, 2, 3), "abc", strict=True)
    )
    assert (history["first"], history["last"], history["complete"]) == (1, 3, True)
    assert history["epoch"] == positions[0].partition(":")[0]
    some = publisher.get("/chat.h1/history", params={"since": positions[0], "limit": 1}).json()
    assert [m["data"] for m in some["messages"]] == ["b"]
    assert some["messages"][-1]["offset"] < some["last"]


def test_the_history_says_what_is_missing(publisher: httpx.Client) -> None:
    """History is not complete when messages after the position are no longer held."""
    push(publisher, "short2", *range(12))
    epoch = publisher.get("/short2/history").json()["epoch"]
    lost = publisher.get("/short2/history", params={"since": f"{epoch}:1"}).json()
    assert (lost["complete"], lost["first"], lost["messages"][0]["offset"]) == (False, 3, 3)
    other = publisher.get("/short2/history", params={"since": "old:1"}).json()
    assert (other["complete"], len(other["messages"])) == (False, 10)
    assert publisher.get("/short2/history", params={"since": f"{epoch}:12"}).json()["complete"] is True


def test_long_polling_waits_for_the_next_message(http: httpx.Client, publisher: httpx.Client) -> None:
    """History with ``wait`` answers as soon as something comes, and with none when nothing does."""
    (position,) = push(publisher, "chat.poll", 1)
    answers: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(http.get("/chat.poll/history", params={"since": position, "wait": 30}))
    )
    waiting.start()
    while waiting.is_alive():
        push(publisher, "chat.poll", 2)
        waiting.join(0.2)
    assert answers[0].json()["messages"][0]["data"] == 2
    begin = time.monotonic()
    nothing = publisher.get("/chat.quiet/history", params={"wait": 1}).json()
    assert nothing["messages"] == []
    assert time.monotonic() - begin >= 1


@pytest.mark.parametrize("query", ["limit=x", "limit=1001", "wait=61", "wait=-1", "since=x"])
def test_a_bad_question_is_malformed(publisher: httpx.Client, query: str) -> None:
    """History says which parameter is wrong."""
    assert_problem(publisher.get(f"/lebowski/history?{query}"), 400, "malformed")
