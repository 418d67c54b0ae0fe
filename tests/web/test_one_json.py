"""The same text at every entrance: one verdict, and the same bytes at every way out."""

from __future__ import annotations

import http.client
import json
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
from typing import NoReturn, Self

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.server import SERVE, Server
from tests.web.conftest import PLAIN

ENTRANCES = ("named", "envelope", "batch", "frame", "said")
"""Each has a channel of its own, of its name."""

CHANNELS = "channels:\n" + "".join(
    f"  {name}: {{publish: anyone, client_publish: true, max_message_size: 64KiB}}\n" for name in ENTRANCES
)
MOST = 64 * 1024
DEPTH = 128
V1 = [Subprotocol("abide.v1")]
REFUSED = {1003, 1007, 1009, 4400}

VALID = (
    *("1e400", "-0", "-0.0", "0.10", "1E+2", "9" * 4301, "-" + "9" * 4301, "1." + "0" * 5000, "9" * 40_000, "null"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\/"', '"\u2028"', '"\x7f"', '"😀"', '"\\ud83d\\ude00"', '""'),
    *('{"a":1,"a":2}', '{"":{"":null}}', '{"a" : [ 1 ,\t2 ]\r\n}', "[1,\n2]", '{"\\ud800":1}', "true", "[ ]", "{}"),
    *(f"{'[' * 128}{inner}{']' * 128}" for inner in ("", "1", f'"{"x" * 5000}"', f'"{"x" * 40_000}"')),
    *('{"a":' * levels + "1" + "}" * levels for levels in (127, 128)),
    f'"{"x" * (MOST - 2)}"',
)
INVALID = (
    *("", " ", "nul", "True", "NaN", "Infinity", "-Infinity", "01", "+1", "1.", ".5", "1e", "0x1", "'a'", '"', '"\\x"'),
    *("[1,]", "[,1]", '{"a":1,}', "{a:1}", '{"a"}', '{"a":}', "[1 2]", "1 2", "//", "[1]]", "{]", '"\t"', '"\x00"'),
    *("\ufeff1", '\ufeff{"a":1}', "1\ufeff", "\xa01", "\x0b1", "1\x00", "[" * 1000, '"\\u12', f"\ufeff{'[1]' * 9000}"),
    *(f"{'[' * 129}{inner}{']' * 129}" for inner in ("", "1", f'"{"x" * 5000}"', f'"{"x" * 40_000}"')),
    *('{"a":' * levels + "1" + "}" * levels for levels in (129, 2000)),
    f'"{"x" * (MOST - 1)}"',
    f"[{'1,' * 40_000}]",
)
NOT_UTF8 = (
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\xc0\xaf"',
    b'"\xf0\x9f\x98"',
    b"\xff\xfe1\x00",
    b'"%b\x80"' % (b"x" * 9000),
)
PIECES = (b"", b'"', b"\\", b"[", b"]", b"{", b"}", b":", b"-", b"0", b"e", b" ", b"\xc3", b"\x1e")
"""What mutations are made of."""


def is_data(text: bytes) -> bool:
    """Whether it can be a message, by the standard library's reading of RFC 8259 and the documented bounds."""

    def refuse(_: str) -> NoReturn:
        raise ValueError

    try:
        json.loads(text.decode(), parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    brackets = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text)
    depths = accumulate({91: 1, 123: 1, 93: -1, 125: -1}.get(byte, 0) for byte in brackets)
    return len(text) <= MOST and max(depths, default=0) <= DEPTH


def mutations(count: int) -> Iterator[bytes]:
    """Return texts that are nearly JSON, the same ones each time; none that is more than one value in a list."""
    chance = random.Random(16)  # noqa: S311 — the same texts each time
    short = [text.encode() for text in VALID if len(text) < 100]
    while count:
        text = bytearray(chance.choice(short))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(text) + 1)
            text[at : at + chance.randrange(3)] = chance.choice(PIECES)
        made = bytes(text).strip(b" \t\r\n")
        if is_data(made) or (not is_data(b"[%b]" % made) and not is_data(b'{"a":%b}' % made)):
            count -= 1
            yield made


class Entrances:
    """Every way to publish."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sockets: dict[str, ClientConnection] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def takes(self, entrance: str, text: bytes) -> bool:
        """Publish by this entrance; return whether it was stored, and fail unless it is or is refused."""
        match entrance:
            case "named":
                return self._post("/push/named", text)
            case "envelope":
                return self._post("/push", b'{"channel":"envelope","message":%b}' % text)
            case "batch":
                return self._post("/push", b'[{"channel":"batch","message":%b}]' % text)
            case "frame":
                return self._send("frame", text, None) == text
            case _:
                heard = self._send("ws", b'{"type":"publish","channel":"said","data":%b}' % text, V1)
                assert heard is None or json.loads(heard)["type"] in {"published", "error"}
                return heard is not None and json.loads(heard)["type"] == "published"

    def _post(self, path: str, body: bytes) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read(), parse_int=str)
        finally:
            connection.close()
        assert answer.status in {200, 400, 413}, content
        if isinstance(content, list):
            assert content[0].get("code") in {None, "malformed", "too_large"}
            return "position" in content[0]
        return answer.status == 200

    def _send(self, path: str, text: bytes, subprotocols: list[Subprotocol] | None) -> bytes | None:
        """Send a text frame; return what is heard then, None where the socket closes."""
        if path not in self._sockets:
            socket = connect(f"{self._server.ws_url}/{path}", subprotocols=subprotocols, max_size=None)
            self._sockets[path] = self._stack.enter_context(socket)
        socket = self._sockets[path]
        try:
            socket.send(text, text=True)
            return socket.recv(timeout=10, decode=False)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
        del self._sockets[path]
        assert code in REFUSED
        return None


def ways_out(server: Server, channel: str) -> dict[str, list[bytes]]:
    """Return the data of a channel's messages as every way out has it."""
    answer = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    answer.request("GET", f"/{channel}/history?limit=1000")
    history = answer.getresponse().read()
    heads = re.split(rb'\{"position":"[^"]+","offset":\d+,"time":\d+,"data":', history)[1:]
    found = {"history": [*(head[:-2] for head in heads[:-1]), heads[-1].rpartition(b'],"epoch"')[0][:-1]]}
    for name, subprotocols in (("plain", None), ("session", V1)):
        with connect(f"{server.ws_url}/{channel}?last=1000", subprotocols=subprotocols, max_size=None) as socket:
            frames = [socket.recv(timeout=10, decode=False) for _ in range(len(heads) + bool(subprotocols))]
        found[name] = frames
    found["session"] = [frame.partition(b',"data":')[2][:-1] for frame in found["session"][1:]]
    answer.request("GET", f"/{channel}?last=1000", headers={"accept": "text/event-stream"})
    stream = answer.getresponse()
    found["stream"] = []
    while len(found["stream"]) < len(heads):
        line = stream.readline()
        if line.startswith(b"data: "):
            found["stream"].append(line[6:-1])
    answer.close()
    return found


@pytest.mark.parametrize("command", [SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def test_every_entrance_takes_the_same_and_every_way_out_has_the_same_bytes(command: tuple[str, ...]) -> None:
    """Server takes the same texts at every entrance, refuses the same, and gives out what it took byte for byte."""
    texts = [*(text.encode() for text in (*VALID, *INVALID)), *NOT_UTF8, *mutations(100)]
    assert [text for text in VALID if not is_data(text.encode())] == []
    assert [text for text in (*INVALID,) if is_data(text.encode())] == []
    expected = [text for text in texts if is_data(text)]
    with Server(channels=CHANNELS, command=command) as server:
        with Entrances(server) as entrances:
            for text in texts:
                verdicts = {entrance: entrances.takes(entrance, text) for entrance in ENTRANCES}
                assert verdicts == dict.fromkeys(ENTRANCES, is_data(text)), text[:200]
        for entrance in ENTRANCES:
            for name, data in ways_out(server, entrance).items():
                assert len(data) == len(expected), (entrance, name)
                for got, given in zip(data, expected, strict=True):
                    assert got == (re.sub(rb"[\r\n]", b" ", given) if name == "stream" else given), (entrance, name)
        assert not [line for line in server.log if "exception" in line and line["logger"].startswith("app")]
