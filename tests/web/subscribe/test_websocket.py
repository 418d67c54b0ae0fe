"""WebSocket subscriptions in their plain form."""

import base64
import json
import os
import socket
import struct
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.conftest import ServerFactory
from tests.support.server import Server
from tests.web.conftest import KEY


@pytest.mark.parametrize("path", ["/locked", "/ws"])
def test_who_may_not_publish_cannot_make_the_server_hold_large_messages(
    server_factory: ServerFactory, path: str
) -> None:
    """Socket of who may publish nowhere closes with 1009 at a frame over 8 KiB; with a key it goes on."""
    text = "auth: {keys: second-key-2}\nchannels: {locked: {publish: key, client_publish: true}}\n"
    server = server_factory(channels=text)
    url, large = f"{server.ws_url}{path}", json.dumps({"type": "publish", "channel": "locked", "data": "x" * 20_000})
    protocols = [Subprotocol("abide.v1")]
    with connect(url, subprotocols=protocols) as stranger:
        stranger.send(large)
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 — whatever comes before the close
            while True:
                stranger.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    with connect(url, subprotocols=protocols, additional_headers=KEY) as holder:
        holder.send(large)
        while json.loads(holder.recv(timeout=5))["type"] != "published":
            pass


def test_each_message_is_one_text_frame(edge: Server, http: httpx.Client) -> None:
    """Subscriber gets each message's data as one text frame, in order."""
    with connect(f"{edge.ws_url}/chat.frames") as subscriber:
        for number in range(5):
            http.post("/push/chat.frames", json={"n": number})
        assert [subscriber.recv(timeout=5) for _ in range(5)] == [f'{{"n":{number}}}' for number in range(5)]


def test_what_was_published_before_is_not_sent(edge: Server, http: httpx.Client) -> None:
    """Subscriber that asks for no position starts at the head."""
    http.post("/push/chat.before", json="old")
    with connect(f"{edge.ws_url}/chat.before") as subscriber:
        http.post("/push/chat.before", json="new")
        assert subscriber.recv(timeout=5) == '"new"'


def test_a_subscriber_publishes_by_sending(edge: Server) -> None:
    """Subscriber of a channel with client_publish publishes text frames, and hears its own."""
    with connect(f"{edge.ws_url}/talk") as one, connect(f"{edge.ws_url}/talk") as other:
        one.send('{"from": "one"}')
        assert one.recv(timeout=5) == other.recv(timeout=5) == '{"from": "one"}'


def closed_with(edge: Server, path: str, frame: str | bytes) -> tuple[int, str]:
    """Send one frame and return the close code and reason."""
    with connect(f"{edge.ws_url}{path}") as subscriber:
        subscriber.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            subscriber.recv(timeout=5)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize(
    ("path", "frame", "code", "fragment"),
    [
        ("/lebowski", "1", 4403, "client_publish"),
        ("/talk", "not json", 4400, "not JSON"),
        ("/talk", "NaN", 4400, "NaN"),
        ("/talk", b"1", 1003, "binary"),
        ("/small", '"' + "x" * 30 + '"', 1009, "max_message_size"),
    ],
)
def test_a_frame_that_cannot_be_published_closes_with_its_code(
    edge: Server, path: str, frame: str | bytes, code: int, fragment: str
) -> None:
    """Server closes with the documented code and a reason, and serves the next one."""
    got, reason = closed_with(edge, path, frame)
    assert (got, fragment in reason) == (code, True), reason


@pytest.mark.parametrize(
    ("path", "headers", "status", "fragment"),
    [
        ("/nope", {}, 404, "unknown_channel"),
        ("/chat.a*b", {}, 404, "unknown_channel"),
        ("/lebowski?since=abc", {}, 400, "'abc' is not a position"),
        ("/lebowski?since=", {}, 400, "is not a position"),
        ("/lebowski?last=-1", {}, 400, "'last' must be a whole number"),
        ("/lebowski?last=x", {}, 400, "'last' must be a whole number"),
        ("/ws", {}, 400, "/ws speaks only abide.v1"),
        ("/lebowski", {"origin": "https://evil.example"}, 403, "https://evil.example"),
    ],
)
def test_refusals_before_the_upgrade_are_http_statuses(
    edge: Server, path: str, headers: dict[str, str], status: int, fragment: str
) -> None:
    """Server refuses a handshake with a real status and a problem as the body."""
    with pytest.raises(InvalidStatus) as refused, connect(f"{edge.ws_url}{path}", additional_headers=headers):
        pass
    response = refused.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert fragment in (response.body or b"").decode()


def test_a_page_of_an_allowed_origin_may_connect(edge: Server) -> None:
    """Server lets pages of the configured origins connect, and callers without an Origin."""
    with connect(f"{edge.ws_url}/lebowski", origin=Origin("https://app.example")):
        pass


def test_a_key_lets_a_subscriber_publish_to_a_keyed_channel(edge: Server) -> None:
    """Server closes a keyless subscriber of a channel without client_publish though it holds a key."""
    with connect(f"{edge.ws_url}/listen", additional_headers=KEY) as subscriber:
        subscriber.send("1")
        with pytest.raises(ConnectionClosed):
            subscriber.recv(timeout=5)


def test_the_echo_answers_what_it_is_sent(edge: Server) -> None:
    """Echo sends back text and binary frames."""
    with connect(f"{edge.ws_url}/echo") as echo:
        echo.send("text")
        echo.send(b"\x00\xff")
        assert [echo.recv(timeout=5), echo.recv(timeout=5)] == ["text", b"\x00\xff"]


class RawSocket:
    """A WebSocket by hand, for frames that no client library would send."""

    def __init__(self, url: str, path: str, *, upgrade: bool = True) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        self.socket.sendall("\r\n".join(lines).encode())
        if upgrade:
            self.socket.sendall(b"\r\n\r\n")
            assert b" 101 " in self.socket.recv(4096)

    def send(self, first: int, body: bytes) -> None:
        """Send one masked frame whose first byte is given."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))
        self.socket.sendall(bytes([first, 0x80 | len(body)]) + mask + masked)

    def close_code(self) -> int:
        """Read the close frame."""
        frame = self.socket.recv(4096)
        assert frame[0] == 0x88, frame
        return int(struct.unpack(">H", frame[2:4])[0])


def test_invalid_utf8_closes_with_1007(edge: Server, http: httpx.Client) -> None:
    """Server closes a text frame that is not UTF-8 with 1007."""
    raw = RawSocket(edge.url, "/talk")
    raw.send(0x81, b"\xff\xfe")
    assert raw.close_code() == 1007
    raw.socket.close()
    assert http.get("/health/live").status_code == 200


def test_an_unmasked_frame_closes_with_1002(edge: Server) -> None:
    """Server closes a frame without a mask with 1002."""
    raw = RawSocket(edge.url, "/talk")
    raw.socket.sendall(b"\x81\x01x")
    assert raw.close_code() == 1002
    raw.socket.close()


def test_a_frame_that_announces_too_much_closes_with_1009(edge: Server) -> None:
    """Server closes a frame over the limit by its header, before the data comes."""
    raw = RawSocket(edge.url, "/talk")
    raw.socket.sendall(b"\x81\xff" + struct.pack(">Q", 2_000_000) + b"mask")
    assert raw.close_code() == 1009
    raw.socket.close()


@pytest.mark.parametrize("sent", ["nothing", "half a handshake", "half a frame"])
def test_a_client_that_vanishes_harms_nobody(edge: Server, http: httpx.Client, sent: str) -> None:
    """Server forgets a client that is gone, wherever it stopped, and others hear on."""
    with connect(f"{edge.ws_url}/chat.vanish") as witness:
        raw = RawSocket(edge.url, "/chat.vanish", upgrade=sent != "half a handshake")
        if sent == "half a frame":
            raw.socket.sendall(b"\x81\xff\x00")
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.socket.close()
        http.post("/push/chat.vanish", json=sent)
        assert witness.recv(timeout=5) == f'"{sent}"'


def test_one_connection_is_one_log_line(edge: Server, http: httpx.Client) -> None:
    """Server logs a connection once, when it ends, with what it was sent and why it ended."""
    with connect(f"{edge.ws_url}/chat.logged?token=very-secret") as subscriber:
        http.post("/push/chat.logged", json=1)
        subscriber.recv(timeout=5)
    line = edge.wait_log(lambda line: line.get("event") == "connection" and line.get("path") == "/chat.logged")
    assert (line["messages"], line["close_code"]) == (1, 1000)
    about = [entry for entry in edge.log if entry.get("connection_id") == line["connection_id"]]
    assert about == [line]
    assert "very-secret" not in str(edge.log)
