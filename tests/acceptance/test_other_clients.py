"""Clients that others wrote, and client.js in Node, beside a server that is killed under them."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator

import aiohttp
import httpx
import pytest

from tests.support.processes import free_port
from tests.support.programs import Program, find_or_skip, skip
from tests.support.server import Server

CHANNELS = """\
backend: ${DATABASE_URL:-memory://}
defaults: {publish: anyone}
channels:
  lebowski: {}
  walter: {}
"""


class Lives:
    """A server on one port and one database, which can be killed and started again."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._port = free_port()
        self.server = self._start()

    @property
    def url(self) -> str:
        return self.server.url

    def push(self, *messages: object, channel: str = "lebowski") -> list[str]:
        """Publish messages, and return their positions."""
        url, headers = f"{self.url}/push/{channel}", {"content-type": "application/json"}
        answers = [httpx.post(url, content=json.dumps(message), headers=headers) for message in messages]
        return [answer.raise_for_status().json()["position"] for answer in answers]

    def again(self) -> None:
        """Kill all its processes, and start it anew."""
        self.server.kill()
        self.server = self._start()

    def _start(self) -> Server:
        server = Server(channels=CHANNELS, env={"PORT": str(self._port), "DATABASE_URL": self._database})
        server.port = self._port
        return server.start()


@pytest.fixture
def lives(database_url: str) -> Iterator[Lives]:
    lives = Lives(database_url)
    yield lives
    lives.server.kill()


async def frames(url: str, protocols: tuple[str, ...], count: int) -> list[object]:
    """Return the first frames of a WebSocket, read by aiohttp."""
    timeout = aiohttp.ClientWSTimeout(ws_receive=10)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=protocols, timeout=timeout) as websocket,
    ):
        assert websocket.protocol == (protocols[0] if protocols else None)
        return [await websocket.receive_json() for _ in range(count)]


def test_aiohttp_gets_data_on_a_plain_socket(lives: Lives) -> None:
    """Client of aiohttp gets the data of each message, as it was published."""
    messages = [{"the": "Dude"}, "κόσμε", 1.5, None, "x" * 60_000]
    lives.push(*messages)
    assert asyncio.run(frames(f"{lives.url}/lebowski?last=5", (), 5)) == messages


def test_aiohttp_resumes_after_its_position(lives: Lives) -> None:
    """Client of aiohttp gets what came after its position from the server that was started again."""
    first, second = lives.push(1, 2)
    began, message = asyncio.run(frames(f"{lives.url}/lebowski?since={first}", ("abide.v1",), 2))
    assert began == {"type": "subscribed", "channel": "lebowski", "position": first, "resumed": True}
    assert isinstance(message, dict)
    assert (message["position"], message["data"]) == (second, 2)
    lives.again()
    (third,) = lives.push(3)
    began, message = asyncio.run(frames(f"{lives.url}/lebowski?since={second}", ("abide.v1",), 2))
    assert began == {"type": "subscribed", "channel": "lebowski", "position": second, "resumed": True}
    assert isinstance(message, dict)
    assert (message["position"], message["data"]) == (third, 3)


def test_curl_resumes_an_event_stream(lives: Lives) -> None:
    """Curl reads an event stream to the server's end, and with Last-Event-ID what came after it."""
    command = (find_or_skip("curl"), "--silent", "--no-buffer", "--header", "accept: text/event-stream")
    before = lives.push("a", "b")
    with Program(*command, f"{lives.url}/lebowski?since=earliest") as stream:
        epoch = before[0].partition(":")[0]
        assert stream.until('data: "b"') == [
            "retry: 2000", "", f"id: {epoch}:0", "", f"id: {before[0]}", 'data: "a"', "", f"id: {before[1]}",
        ]  # fmt: skip
        lives.again()
        assert stream.wait() != 0
    after = lives.push("c", "d")
    resumed = ("--header", f"last-event-id: {before[1]}", f"{lives.url}/lebowski")
    with Program(*command, *resumed) as stream:
        assert stream.until('data: "d"') == [
            "retry: 2000", "", f"id: {before[1]}", "", f"id: {after[0]}", 'data: "c"', "", f"id: {after[1]}",
        ]  # fmt: skip


def test_curl_polls_for_the_next_message(lives: Lives) -> None:
    """Curl that waits for the next message gets it, and goes on from there when the server was started again.

    A server that has only just started may ask it to try again.
    """
    curl = find_or_skip("curl")
    (position,) = lives.push("a")
    for data in ("b", "c"):
        wait = f"{lives.url}/lebowski/history?since={position}&wait=30"
        with Program(curl, "--silent", "--fail", "--retry", "5", "--write-out", "\\n", wait) as poll:
            expected = lives.push(data)
            page = json.loads(poll.line() or "")
        assert page["complete"]
        assert [(message["position"], message["data"]) for message in page["messages"]] == [(expected[0], data)]
        (position,) = expected
        lives.again()


NODE = """
import { connect } from "data:text/javascript;base64,%s";
const [url, transport] = process.argv.slice(1);
let began = 0;
const onState = (state, { transport }) => state === "open" && console.log(`open ${transport}`);
const abide = connect(url, { onState, ...(transport === "sse" && { WebSocket: null }) });
for (const channel of ["lebowski", "walter"]) {
  abide.subscribe(channel, {
    onSubscribed: (_, resumed) => {
      console.log(`${channel} ${resumed ? "resumed" : "began"}`);
      if (++began === 2) abide.publish("lebowski", "from node");
    },
    onMessage: ({ position, data }) => console.log(`${channel} ${position} ${data}`),
    onGap: ({ reason }) => console.log(`${channel} ${reason}`),
    onError: ({ message }) => console.log(`${channel} ${message}`),
  });
}
"""


def node(lives: Lives, transport: str) -> Program:
    """Run client.js in the machine's Node, whose own WebSocket is behind a flag before Node 22."""
    program = find_or_skip("node", "nodejs")
    probe = (program, "-p", "parseInt(process.versions.node)")
    version = int(subprocess.run(probe, capture_output=True, text=True, check=True).stdout)
    if version < 20:
        skip(f"client.js needs Node 20: this is {version}")
    flags = ("--experimental-websocket",) if transport == "websocket" and version < 22 else ()
    client = base64.b64encode(httpx.get(f"{lives.url}/client.js").content).decode()
    return Program(program, *flags, "--input-type=module", "--eval", NODE % client, lives.url, transport)


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_client_js_resumes_in_node(lives: Lives, transport: str) -> None:
    """Client.js in Node shows each message once, in order, when the server is killed and started again."""
    with node(lives, transport) as client:
        told = [client.line() for _ in range(4)]
        assert sorted(map(str, told[:3])) == ["lebowski began", f"open {transport}", "walter began"]
        assert str(told[3]).endswith(":1 from node")
        shown = [f"lebowski {position} {number}" for number, position in enumerate(lives.push(0, 1, 2))]
        assert [client.line() for _ in shown] == shown
        for life in range(2):
            lives.again()
            away = {channel: lives.push(life, "away", channel=channel) for channel in ("lebowski", "walter")}
            told = [client.line() for _ in range(7)]
            assert told[0] == f"open {transport}"
            for channel, (first, second) in away.items():
                expected = [f"{channel} resumed", f"{channel} {first} {life}", f"{channel} {second} away"]
                assert [line for line in told if str(line).startswith(channel)] == expected
