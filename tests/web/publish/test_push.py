"""The push routes: what they store, what they answer, what they refuse."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app.web.edge.problems import STATUSES
from tests.support.server import Server
from tests.web.conftest import KEY


def assert_problem(response: httpx.Response, status: int, code: str, fragment: str = "") -> None:
    """Hold that the answer is the documented problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:abide:problem:{code}")
    assert STATUSES[code] == status
    assert fragment in problem["detail"], problem["detail"]


def test_push_answers_where_the_message_stands(http: httpx.Client) -> None:
    """Push answers position, offset, epoch and the message as it came."""
    first = http.post("/push", json={"channel": "chat.where", "message": {"a": 1}}).json()
    second = http.post("/push", json={"channel": "chat.where", "message": "x"}).json()
    assert first == {
        "channel": "chat.where",
        "message": {"a": 1},
        "offset": 1,
        "epoch": first["epoch"],
        "position": f"{first['epoch']}:1",
    }
    assert (second["offset"], second["epoch"]) == (2, first["epoch"])


def test_push_to_a_named_channel_takes_the_body_as_the_message(edge: Server, http: httpx.Client) -> None:
    """Push to a channel's own route publishes the body byte for byte, and answers without it."""
    body = b' {"n": 1.50, "big": 123456789012345678901234567890,\n "e": "\\u00e9"} '
    with connect(f"{edge.ws_url}/chat.bytes") as socket_:
        response = http.post("/push/chat.bytes", content=body, headers={"content-type": "application/json"})
        assert set(response.json()) == {"channel", "position", "offset", "epoch"}
        assert socket_.recv(timeout=5) == body.decode()


def test_push_of_an_envelope_keeps_the_messages_bytes(edge: Server, http: httpx.Client) -> None:
    """Push passes on the message inside the envelope as its bytes stand there."""
    body = b'{"channel" : "chat.slice", "message" :  [1.0,  "\\u00e9" , 1e400] }'
    with connect(f"{edge.ws_url}/chat.slice") as socket_:
        answer = http.post("/push", content=body, headers={"content-type": "application/json"})
        assert b'"message": [1.0,  "\\u00e9" , 1e400]}' in answer.content
        assert socket_.recv(timeout=5) == '[1.0,  "\\u00e9" , 1e400]'


def test_text_is_published_as_a_json_string(edge: Server, http: httpx.Client) -> None:
    """Push turns text/plain into a JSON string."""
    with connect(f"{edge.ws_url}/chat.text") as socket_:
        response = http.post(
            "/push/chat.text", content='say "é"', headers={"content-type": "text/plain; charset=UTF-8"}
        )
        assert response.status_code == 200
        assert json.loads(socket_.recv(timeout=5)) == 'say "é"'


def test_an_array_is_published_in_order_and_each_item_answered(edge: Server, http: httpx.Client) -> None:
    """Push of an array answers each item with its result or its problem, and stores the good ones."""
    items: list[Any] = [
        {"channel": "chat.many", "message": 1},
        {"channel": "nope", "message": 2},
        {"channel": "sealed", "message": 3},
        {"channel": "chat.many"},
        {"channel": "small", "message": "x" * 30},
        "not an object",
        {"channel": "chat.many", "message": 4, "key": "k"},
        {"channel": "chat.many", "message": 4, "key": "k"},
    ]
    with connect(f"{edge.ws_url}/chat.many") as socket_:
        results = http.post("/push", json=items).json()
        assert [result.get("offset", result.get("code")) for result in results] == [
            1, "unknown_channel", "forbidden", "malformed", "too_large", "malformed", 2, 2,
        ]  # fmt: skip
        assert [socket_.recv(timeout=5), socket_.recv(timeout=5)] == ["1", "4"]


def test_an_empty_array_is_answered_with_nothing(http: httpx.Client) -> None:
    """Push of no messages stores none."""
    assert http.post("/push", json=[]).json() == []


def test_a_repeated_idempotency_key_publishes_once(http: httpx.Client) -> None:
    """Push with a known key answers the first result, says so, and stores nothing."""
    headers = {"idempotency-key": "one", "content-type": "application/json"}
    first = http.post("/push/chat.keys", content=b"1", headers=headers)
    again = http.post("/push/chat.keys", content=b"1", headers=headers)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = http.post("/push/chat.keys", content=b"2", headers=headers)
    assert_problem(other, 409, "key_reused", "'one'")


def test_an_idempotency_key_belongs_to_an_identity(edge: Server, http: httpx.Client) -> None:
    """Push with a key that others have used on an open channel is stored, whoever came first, over a socket too."""
    keys = [{"authorization": f"Bearer {key}"} for key in ("first-key-1", "second-key-2")]
    answers = [
        http.post("/push/talk", json=number, headers={"idempotency-key": "order-17", **headers})
        for number, headers in enumerate(({}, *keys))
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.json()["offset"] for answer in answers}) == 3
    for number, headers in enumerate(({"authorization": "Basic eDp5"}, *keys)):
        again = http.post("/push/talk", json=number, headers={"idempotency-key": "order-17", **headers})
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == answers[number].json()
    assert_problem(
        http.post("/push/talk", json="guess", headers={"idempotency-key": "order-17"}), 409, "key_reused", "'order-17'"
    )
    offset = answers[1].json()["offset"]
    for headers, status in (({}, 409), (keys[0], 200)):
        with connect(f"{edge.ws_url}/talk", subprotocols=[Subprotocol("abide.v1")], additional_headers=headers) as v1:
            v1.recv(timeout=5)
            v1.send('{"type": "publish", "id": "1", "data": 1, "key": "order-17"}')
            told = json.loads(v1.recv(timeout=5))
            if status == 200:
                assert told["position"].endswith(f":{offset}")
            else:
                assert (told["status"], told["code"]) == (409, "key_reused")


@pytest.mark.parametrize("key", ["", "a b", "ü".encode().decode("latin-1"), "x" * 256])
def test_a_bad_idempotency_key_is_refused(http: httpx.Client, key: str) -> None:
    """Push refuses a key that is not 1 to 255 visible ASCII characters."""
    headers = {"idempotency-key": key.encode("latin-1"), b"content-type": b"application/json"}
    assert_problem(http.post("/push/lebowski", content=b"1", headers=headers), 400, "malformed", "visible ASCII")  # type: ignore[arg-type]


def test_a_key_in_two_places_is_refused(http: httpx.Client) -> None:
    """Push refuses a header and a member that both want to be the key, and a header for an array."""
    headers = {"idempotency-key": "a"}
    both = http.post("/push", json={"channel": "lebowski", "message": 1, "key": "b"}, headers=headers)
    assert_problem(both, 400, "malformed", "one of them")
    array = http.post("/push", json=[{"channel": "lebowski", "message": 1}], headers=headers)
    assert_problem(array, 400, "malformed", "its own 'key'")


@pytest.mark.parametrize("path", ["/push/listen", "/push"])
def test_a_keyed_channel_asks_for_a_key(http: httpx.Client, path: str) -> None:
    """Push to a keyed channel is 401 without a key or with a wrong one, and works with any right one."""
    body = {"channel": "listen", "message": 1} if path == "/push" else 1
    missing = http.post(path, json=body)
    assert_problem(missing, 401, "unauthorised", "no key was sent")
    assert missing.headers["www-authenticate"].startswith("Bearer")
    wrong = http.post(path, json=body, headers={"authorization": "Bearer wrong-key-3"})
    assert_problem(wrong, 401, "unauthorised", "none of the configured ones")
    for key in ("first-key-1", "second-key-2"):
        assert http.post(path, json=body, headers={"authorization": f"bearer {key}"}).status_code == 200


def test_a_sealed_channel_takes_nothing(http: httpx.Client) -> None:
    """Push to a channel with publish: nobody is 403, with a key too."""
    assert_problem(http.post("/push/sealed", json=1, headers=KEY), 403, "forbidden", "publish: nobody")


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"[1,]", b"\xff", b"\xef\xbb\xbf1", b"[" * 200 + b"]" * 200])
def test_what_is_not_json_is_malformed(http: httpx.Client, body: bytes) -> None:
    """Push answers 400 to every body that is not JSON, on both routes."""
    headers = {"content-type": "application/json"}
    assert_problem(http.post("/push/lebowski", content=body, headers=headers), 400, "malformed")
    assert_problem(http.post("/push", content=body, headers=headers), 400, "malformed")


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({"message": 1}, "'channel' is missing"),
        ({"channel": "lebowski"}, "'message' is missing"),
        ({"channel": 1, "message": 1}, "'channel' must be a string"),
        ({"channel": "lebowski", "mesage": 1}, "unknown member 'mesage': the members here are channel, key, message"),
        ({"channel": "lebowski", "message": 1, "key": 7}, "'key' must be a string"),
        ("lebowski", "expected an object"),
        ([{"channel": "lebowski", "message": 1}] * 1001, "at most 1000"),
    ],
)
def test_a_bad_envelope_is_malformed(http: httpx.Client, body: object, fragment: str) -> None:
    """Push says what is wrong with an envelope."""
    assert_problem(http.post("/push", json=body), 400, "malformed", fragment)


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "application/xml", "application/json; charset=latin-1", "text/html", ""],
)
def test_other_content_types_are_unsupported(http: httpx.Client, content_type: str) -> None:
    """Push answers 415 to what is neither JSON nor text."""
    headers = {"content-type": content_type}
    assert_problem(http.post("/push/lebowski", content=b"1", headers=headers), 415, "unsupported_type")
    assert_problem(http.post("/push", content=b"1", headers=headers), 415, "unsupported_type")


FORM = {"content-type": "application/x-www-form-urlencoded"}
"""What `curl -d` says of whatever it sends."""


def test_json_that_is_sent_as_a_form_is_taken(http: httpx.Client) -> None:
    """Push takes an object or an array for JSON where curl says, unasked, that it is a form."""
    for body in ('{"channel": "chat.form", "message": {"a": 1}}', ' [{"channel": "chat.form", "message": {"a": 1}}]'):
        assert http.post("/push", content=body, headers=FORM).status_code == 200
    for body in ('{"a": 1}', "[" + "1," * 3000 + "1]"):
        assert http.post("/push/chat.form", content=body, headers=FORM).status_code == 200
    messages = http.get("/chat.form/history").json()["messages"]
    assert [message["data"] for message in messages] == [{"a": 1}, {"a": 1}, {"a": 1}, [1] * 3001]
    broken = http.post("/push", content='{"channel": "chat.form"', headers=FORM)
    assert_problem(broken, 400, "malformed", "not JSON")


@pytest.mark.parametrize("name", ["origin", "referer", "sec-fetch-site"])
def test_a_page_cannot_send_json_as_a_form(http: httpx.Client, name: str) -> None:
    """Push takes the type at its word where a browser sends it: pages may have forms sent to everybody, unasked."""
    headers = FORM | {name: {"sec-fetch-site": "same-origin"}.get(name, str(http.base_url))}
    for path in ("/push", "/push/lebowski"):
        answer = http.post(path, content='{"channel": "lebowski", "message": 1}', headers=headers)
        assert_problem(answer, 415, "unsupported_type", "send application/json")


def test_text_cannot_be_an_envelope(http: httpx.Client) -> None:
    """Push without a channel in its path takes JSON only."""
    response = http.post("/push", content="hi", headers={"content-type": "text/plain"})
    assert_problem(response, 415, "unsupported_type", "send application/json")


@pytest.mark.parametrize("name", ["nope", "chat.", "chat.a*b", "", "a/b", "%00"])
def test_an_unknown_channel_is_404(http: httpx.Client, name: str) -> None:
    """Push to a channel that is not declared is 404, and names it."""
    assert_problem(http.post(f"/push/{name}", json=1), 404, "unknown_channel", "no channel")


def test_an_unknown_channel_in_an_envelope_is_404(http: httpx.Client) -> None:
    """Push of an envelope for a channel that is not declared is 404."""
    assert_problem(http.post("/push", json={"channel": "nope", "message": 1}), 404, "unknown_channel", "'nope'")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/push", "POST"),
        ("PUT", "/push/lebowski", "POST"),
        ("POST", "/lebowski", "GET, HEAD"),
        ("DELETE", "/health/live", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_and_names_the_right_one(http: httpx.Client, method: str, path: str, allow: str) -> None:
    """Server answers 405 with Allow where the path is right and the method is not."""
    response = http.request(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow


def test_a_channel_asked_for_by_plain_get_says_how_to_subscribe(http: httpx.Client) -> None:
    """Server answers a plain GET of a channel with 406 and the ways in."""
    for way in ("WebSocket", "text/event-stream", "/lebowski/history"):
        assert_problem(http.get("/lebowski"), 406, "not_acceptable", way)


def test_an_unknown_page_is_404(http: httpx.Client) -> None:
    """Server answers 404 as a problem where nothing is."""
    assert_problem(http.get("/nope/at/all"), 404, "unknown_channel")


def test_a_message_of_exactly_the_limit_fits(http: httpx.Client) -> None:
    """Push takes a message of max_message_size bytes and refuses one byte more."""
    assert http.post("/push/small", content=b'"' + b"x" * 18 + b'"', headers=JSON).status_code == 200
    over = http.post("/push/small", content=b'"' + b"x" * 19 + b'"', headers=JSON)
    assert_problem(over, 413, "too_large", "the channel's max_message_size of 20 bytes")


def test_text_that_grows_over_the_limit_is_refused(http: httpx.Client) -> None:
    """Push counts text as the JSON string that it becomes."""
    over = http.post("/push/small", content=b'"' * 12, headers={"content-type": "text/plain"})
    assert_problem(over, 413, "too_large", "max_message_size")


JSON = {"content-type": "application/json"}


class Raw:
    """A bare socket to the server, for requests that no client library would send."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def answer(self) -> bytes:
        """Read until the server closes, or says nothing more after an answer."""
        received = b""
        while b"}" not in received and (chunk := self.socket.recv(65536)):
            received += chunk
        return received


@pytest.fixture
def raw(edge: Server) -> Iterator[Raw]:
    raw = Raw(edge.url)
    yield raw
    raw.socket.close()


def head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def test_a_body_that_announces_too_much_is_refused_before_it_comes(raw: Raw) -> None:
    """Push answers 413 to a Content-Length over the limit, without waiting for the body."""
    raw.send(head("/push/lebowski", "content-length: 99999999"))
    answer = raw.answer()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_a_body_over_the_limit_is_refused_while_it_arrives(raw: Raw) -> None:
    """Push answers 413 in the middle of a body of unknown length, and the sender sees the answer."""
    raw.send(head("/push/lebowski", "transfer-encoding: chunked"))
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    raw.send(*[chunk] * 8)
    assert raw.answer().startswith(b"HTTP/1.1 413 ")


def test_a_client_that_vanishes_in_its_body_harms_nobody(edge: Server, raw: Raw, http: httpx.Client) -> None:
    """Server keeps serving when a client goes away in the middle of its body."""
    raw.send(head("/push/lebowski", "content-length: 100"), b"123")
    raw.socket.close()
    edge.wait_log(lambda line: line.get("path") == "/push/lebowski" and line.get("status") == 400)
    assert http.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST / HTTPS/1.1\r\n\r\n",
        b"\r\n" * 50 + b"x: y\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_and_forgotten(raw: Raw, http: httpx.Client, junk: bytes) -> None:
    """Server answers 400 to what is not HTTP, and keeps serving."""
    raw.send(junk)
    assert raw.socket.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert http.get("/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/push/a/push/lebowski", "/push//lebowski", "/push/lebowski/", "/push/%ff%00"])
def test_a_path_around_a_channels_name_leads_nowhere(http: httpx.Client, path: str) -> None:
    """Push takes all that follows /push/ for the name, and nothing of it away."""
    assert_problem(http.post(path, json=1), 404, "unknown_channel")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("TRACE", "/push", 405, "method_not_allowed"),
        ("TRACE", "/nothing", 405, "method_not_allowed"),
        ("PROPFIND", "/lebowski", 405, "method_not_allowed"),
        ("OPTIONS", "*", 404, "unknown_channel"),
    ],
)
def test_an_odd_request_is_refused_as_a_problem(raw: Raw, method: str, path: str, status: int, code: str) -> None:
    """Server answers methods and targets that it has no use for as it answers all it refuses."""
    raw.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head, _, body = raw.socket.makefile("rb").read().partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert (json.loads(body)["status"], json.loads(body)["code"]) == (status, code)
    assert (b"\r\nallow: " in head) == (status == 405)


def test_head_is_answered_as_get_without_the_body(http: httpx.Client) -> None:
    """Server answers HEAD where it answers GET: monitors ask health so."""
    for path in ("/health/live", "/health/ready", "/lebowski"):
        get, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == get.headers["content-length"]


def test_health_tells_what_is_served(http: httpx.Client) -> None:
    """Server is alive and ready, and says by which configuration."""
    assert http.get("/health/live").json() == {"live": True}
    ready = http.get("/health/ready", headers=KEY).json()
    assert ready == {
        "ready": True,
        "reasons": [],
        "backend": "memory, in this process alone",
        "config": {"hash": ready["config"]["hash"], "error": None},
    }


def test_a_path_that_is_none_says_where_to_go(edge: Server, http: httpx.Client) -> None:
    """Answer to a path that is no page and no channel says how to publish, or how to get the channel, and is logged."""
    assert_problem(http.post("/publish", json=1), 404, "unknown_channel", "publish with POST /push")
    assert_problem(http.get("/push"), 405, "method_not_allowed", "/push does not take GET: use POST")
    assert_problem(http.get("/lebowsky"), 404, "unknown_channel", "declare it in channels.yaml")
    assert edge.wait_log(lambda line: line.get("path") == "/lebowsky")["code"] == "unknown_channel"
