"""What requests say in headers, queries and ids: read alike at every entrance."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.server import Server
from tests.support.wire import Wire
from tests.web.publish.test_push import JSON, assert_problem
from tests.web.subscribe.test_v1 import speak

ENTRANCES = ["socket", "session", "stream", "history"]

Headers = Sequence[tuple[str, str]]


def status_of(edge: Server, entrance: str, query: str) -> int:
    """Return how a read with this query is answered; a socket that opens is 101."""
    if entrance in ("stream", "history"):
        path = "/chat.query/history" if entrance == "history" else "/chat.query"
        with httpx.stream("GET", f"{edge.url}{path}?{query}", headers={"accept": "text/event-stream"}) as response:
            return response.status_code
    subprotocols: Any = ["abide.v1"] if entrance == "session" else None
    try:
        with connect(f"{edge.ws_url}/chat.query?{query}", subprotocols=subprotocols):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def ask(edge: Server, method: str, path: str, headers: Headers, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    """Send a request with exactly these headers; return the status and what the body says."""
    client = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=10)
    client.putrequest(method, path, skip_accept_encoding=True)
    for name, value in (*headers, ("content-length", str(len(body)))):
        client.putheader(name, value)
    client.endheaders(body)
    answer = client.getresponse()
    content = answer.read()
    client.close()
    return answer.status, json.loads(content or b"{}")


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    "query",
    [
        "since=a:1&since=a:2",
        "since=earliest&since=earliest",
        "&".join(f"p{number}=" for number in range(101)),
        "since=a:" + "0" * 5000,
        "since=" + "9" * 5000,
    ],
    ids=["two positions", "one position twice", "101 parameters", "zeros", "nines"],
)
def test_odd_queries_are_malformed(edge: Server, entrance: str, query: str) -> None:
    """Each way to read refuses a parameter of ours that comes twice, too many parameters, and what is no position."""
    assert status_of(edge, entrance, query) == 400


@pytest.mark.parametrize("last", ["0" * 5000, "9" * 5000, "00000000001", "-1", "1.0", "1e3", "٣", "", "+1", " 1"])
@pytest.mark.parametrize("entrance", ["socket", "session", "stream"])
def test_odd_numbers_of_messages_are_malformed(edge: Server, entrance: str, last: str) -> None:
    """Each way to subscribe refuses what is not a plain number of messages."""
    assert status_of(edge, entrance, str(httpx.QueryParams({"last": last}))) == 400


@pytest.mark.parametrize("name", ["limit", "wait"])
@pytest.mark.parametrize("number", ["0" * 5000, "9" * 5000, "-1", "1.0", "1e1", "", "+1"])
def test_odd_numbers_of_a_history_are_malformed(edge: Server, name: str, number: str) -> None:
    """History refuses what is not a plain number."""
    assert status_of(edge, "history", str(httpx.QueryParams({name: number}))) == 400


@pytest.mark.parametrize("last", ["9" * 5000, "1.0", "1e999", '"1"', "null", "[]", "true", "-0"])
def test_odd_numbers_in_a_request_are_an_error(edge: Server, last: str) -> None:
    """Session refuses to subscribe with what is not a plain number of messages, and goes on."""
    with speak(edge, "/ws") as speaker:
        speaker.socket.send(f'{{"type":"subscribe","id":1,"channel":"lebowski","last":{last}}}')
        error = speaker.hear()
        assert (error["type"], error["id"], error["code"]) == ("error", 1, "malformed")


@pytest.mark.parametrize(
    "identifier",
    ["9" * 4301, "-" + "9" * 4301, str(2**53), str(-(2**53)), "1e999", "1.5", "1.0", "1e3", "true", "null", "[]",
     '{"a":1}', '"\\ud800"', '"a\\udc00b"', '"' + "x" * 1025 + '"', "[" + "[]," * 20_000 + "1]"],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_what_is_asked_with_an_odd_id_is_not_done(edge: Server, identifier: str) -> None:
    """Session answers a request whose id could not be repeated with an error without id, does nothing, and goes on."""
    with speak(edge, "/talk") as speaker:
        speaker.hear()
        speaker.socket.send(f'{{"type":"publish","id":{identifier},"data":"not to be published"}}')
        error = speaker.hear()
        assert (error["type"], error["code"], error["status"]) == ("error", "malformed", 400)
        assert "id" not in error
        assert len(error["message"]) < 300
        speaker.say(type="publish", id=1, data="published")
        heard = [speaker.hear(), speaker.hear()]
        assert [one["data"] for one in heard if one["type"] == "message"] == ["published"]


@pytest.mark.parametrize("identifier", ["0", "-1", str(2**53 - 1), str(1 - 2**53), '""', '"\\ud83d\\ude00"', '"é"'])
def test_ids_of_requests_come_back(edge: Server, identifier: str) -> None:
    """Session repeats an id that is a string or an integer that every reader of JSON holds."""
    with speak(edge, "/ws") as speaker:
        speaker.socket.send(f'{{"type":"unsubscribe","channel":"lebowski","id":{identifier}}}')
        assert speaker.hear()["id"] == json.loads(identifier)


@pytest.mark.parametrize("member", ['"channel":"\\ud800"', '"key":"\\udfff"', '"since":"\\ud800"', '"type":"\\ud800"'])
def test_half_of_a_surrogate_pair_is_an_error(edge: Server, member: str) -> None:
    """Session refuses members that could not be written again, by the request's id, and goes on."""
    kind = "" if "type" in member else '"type":"publish",' if "key" in member else '"type":"subscribe",'
    channel = "" if '"channel"' in member else '"channel":"talk",'
    data = '"data":1,' if "key" in member else ""
    with speak(edge, "/ws") as speaker:
        speaker.socket.send(f'{{{kind}{channel}{data}"id":"x",{member}}}')
        error = speaker.hear()
        assert (error["type"], error["code"], error["id"]) == ("error", "malformed", "x")
        speaker.say(type="unsubscribe", channel="talk")
        assert speaker.hear()["type"] == "error"


def test_half_of_a_surrogate_pair_in_an_envelope_is_malformed(http: httpx.Client) -> None:
    """Push refuses a channel or key that could not be written again; in a message it passes as it came."""
    for body in (b'{"channel":"\\ud800","message":1}', b'{"channel":"lebowski","message":1,"key":"\\ud800"}'):
        assert_problem(http.post("/push", content=body, headers=JSON), 400, "malformed", "surrogate pair")
    body = b'{"channel":"lebowski","message":"\\ud800"}'
    assert http.post("/push", content=body, headers=JSON).content.endswith(b'"message": "\\ud800"}')


@pytest.mark.parametrize("path", ["/push", "/push/lebowski"])
@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "", "x" * 1000])
def test_a_compressed_body_is_unsupported(edge: Server, path: str, coding: str) -> None:
    """Push answers 415 to a body with a Content-Encoding, and names it."""
    headers = [("content-type", "application/json"), ("content-encoding", coding)]
    status, problem = ask(edge, "POST", path, headers, b'{"channel":"lebowski","message":1}')
    assert (status, problem["code"]) == (415, "unsupported_type")
    assert repr(coding[:80]) in problem["detail"]
    assert len(problem["detail"]) < 300


def test_identity_is_no_encoding(edge: Server) -> None:
    """Push takes a body whose Content-Encoding says that there is none."""
    headers = [("content-type", "application/json"), ("content-encoding", "Identity ")]
    assert ask(edge, "POST", "/push/lebowski", headers, b"1")[0] == 200


def test_blanks_around_a_header_mean_nothing(edge: Server) -> None:
    """Server reads headers without the blanks around them."""
    headers = [
        ("content-type", "application/json \t"),
        ("idempotency-key", " blanks  \t"),
        ("authorization", "Bearer first-key-1 \t "),
    ]
    first = ask(edge, "POST", "/push/listen", headers, b"1")
    assert first[0] == 200
    clean = [(name, value.strip()) for name, value in headers]
    assert ask(edge, "POST", "/push/listen", clean, b"1") == first


def test_blanks_around_an_event_id_mean_nothing(edge: Server, http: httpx.Client) -> None:
    """Stream resumes after a Last-Event-ID that has blanks around it."""
    position, _ = [http.post("/push/chat.blanks", json=number).json()["position"] for number in (1, 2)]
    with Wire(edge.port) as wire:
        lines = ["GET /chat.blanks HTTP/1.1", "host: x", "accept: text/event-stream", f"last-event-id:  {position} \t"]
        wire.send("\r\n".join([*lines, "", ""]).encode())
        wire.read_head()
        while b"data: 2" not in wire.received:
            wire.received += wire.socket.recv(4096)
        assert b"data: 1" not in wire.received
        assert b"event: gap" not in wire.received


@pytest.mark.parametrize(
    ("method", "path", "name", "values"),
    [
        ("POST", "/push/listen", "authorization", ("Bearer first-key-1", "Bearer second-key-2")),
        ("POST", "/push/lebowski", "idempotency-key", ("a", "b")),
        ("POST", "/push/lebowski", "content-type", ("application/json", "text/plain")),
        ("POST", "/push", "content-encoding", ("identity", "br")),
        ("GET", "/lebowski", "last-event-id", ("a:1", "a:2")),
        ("GET", "/lebowski/history", "authorization", ("Bearer a", "Bearer b")),
    ],
)
def test_a_header_with_two_values_is_malformed(
    edge: Server, method: str, path: str, name: str, values: tuple[str, str]
) -> None:
    """Server refuses a header of which one reader could take the one value, another the other."""
    others = [("content-type", "application/json"), ("accept", "text/event-stream")]
    headers = [header for header in others if header[0] != name]
    status, problem = ask(edge, method, path, [*headers, *((name, value) for value in values)], b"1")
    assert (status, problem["code"]) == (400, "malformed")
    assert name in problem["detail"]


def test_a_header_that_says_the_same_twice_is_taken(edge: Server) -> None:
    """Server takes a header that appears twice with one value."""
    headers = [("content-type", "application/json"), ("idempotency-key", "twice"), ("idempotency-key", "twice ")]
    assert ask(edge, "POST", "/push/lebowski", headers, b"1")[0] == 200
