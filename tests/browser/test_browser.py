"""The console and client.js in a real browser, and client.js in Node."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chromium import Chromium, Page
from tests.support.server import Server

CHANNELS = """
channels:
  lebowski: {publish: anyone}
  walter: {publish: anyone}
  "chat.{room}": {publish: anyone}
"""
KEY = "browser-key-1"
GUARDED = f"auth: {{keys: {KEY}}}\nchannels: {{orders: {{publish: key}}}}\n"

OPEN = "document.querySelector('#state').dataset.state === 'open'"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    with chromium.page() as page:
        yield page


@pytest.fixture
def served() -> Iterator[Server]:
    with Server(channels=CHANNELS) as server:
        yield server


def again(server: Server) -> Server:
    """Return a server with the port of one that was killed."""
    other = Server(channels=CHANNELS, env={"PORT": str(server.port)})
    other.port = server.port
    return other


def push(server: Server, channel: str, message: object) -> None:
    httpx.post(f"{server.url}/push/{channel}", json=message).raise_for_status()


# The console


def shown(text: str) -> str:
    """Return the expression that is true when the live view shows a text."""
    return f"document.querySelector('#messages').textContent.includes({json.dumps(text)})"


def button(channel: str) -> str:
    """Return the expression that is a channel's button in the list."""
    return f"document.querySelector('#list button[data-channel=\"{channel}\"]')"


def choose(page: Page, channel: str) -> None:
    """Press a channel's button, and wait until the page is connected."""
    page.until(button(channel))
    page.run(f"{button(channel)}.click()")
    page.until(OPEN)


def enter(page: Page, form: str, text: str) -> None:
    """Fill in a form's one field, and send it."""
    page.run(f"""
        const form = document.querySelector('#{form}');
        form.querySelector('input, textarea').value = {json.dumps(text)};
        form.requestSubmit();
    """)


def test_console_shows_what_is_pushed(page: Page, served: Server) -> None:
    """Console shows what was and what is pushed, counts subscribers, publishes, and says how to use a channel."""
    push(served, "lebowski", "from before")
    page.open(f"{served.url}/")
    choose(page, "lebowski")
    page.until(shown("from before"))
    push(served, "lebowski", {"from": "a push"})
    page.until(shown('{"from":"a push"}'))
    page.until("document.querySelector('#list tr td:nth-child(2)').textContent === '1'")
    enter(page, "publish-form", "<b>from the page</b>")
    page.until(shown('"<b>from the page</b>"'))
    assert page.until("document.querySelector('#published').textContent").startswith("stored at ")
    assert page.run("return refused") == []
    assert f"{served.url}/push/lebowski" in page.run("return document.querySelector('#snippets').textContent")


def test_console_draws_its_charts(page: Page, served: Server) -> None:
    """Console draws the messages of a second as a bar; CONSOLE_SCREENSHOT names a file for a picture of it."""
    page.open(f"{served.url}/")
    choose(page, "lebowski")
    page.until(f"{button('lebowski')}.closest('tr').children[1].textContent === '1'")
    push(served, "lebowski", "a bar")
    page.until("document.querySelector('#rate-chart path')?.getAttribute('d').includes('v-46')")
    if path := os.environ.get("CONSOLE_SCREENSHOT"):
        for number in range(1, 13):
            for part in range(number * 5 % 7 + 1):
                push(served, "lebowski", {"order": 1000 + number, "part": part, "total": number * 7 % 50 + 0.9})
            bars = f"document.querySelector('#rate-chart path').getAttribute('d').split('M').length > {number + 1}"
            page.until(bars)
        page.screenshot(Path(path))


def test_console_shows_an_added_channel(page: Page, served: Server) -> None:
    """Console shows a channel that is added to channels.yaml, and it can be chosen and used."""
    page.open(f"{served.url}/")
    page.until("document.querySelectorAll('#list button').length === 3")
    served.write_channels(CHANNELS + "  donny: {publish: anyone}\n")
    choose(page, "donny")
    push(served, "donny", "out of his element")
    page.until(shown("out of his element"))


def test_console_watches_one_of_a_family(page: Page, served: Server) -> None:
    """Console asks which channel of a family to watch."""
    page.open(f"{served.url}/")
    page.until(button("chat.{room}"))
    page.run(f"{button('chat.{room}')}.click()")
    assert page.run("return document.activeElement.id + ' ' + document.activeElement.value") == "watch chat."
    enter(page, "watch-form", "chat.a")
    page.until(OPEN)
    push(served, "chat.a", "in the room")
    page.until(shown("in the room"))


def test_console_asks_for_a_key(page: Page) -> None:
    """Console asks for a key where there are keys, and lists and publishes with it."""
    with Server(channels=GUARDED) as server:
        page.open(f"{server.url}/")
        page.until("!document.querySelector('#key-form').hidden")
        enter(page, "key-form", "no-such-key")
        page.until("document.querySelector('#list-problem').textContent.includes('none of the configured')")
        enter(page, "key-form", KEY)
        choose(page, "orders")
        enter(page, "publish-form", '{"with": "a key"}')
        page.until(shown('{"with":"a key"}'))


# What browsers do by themselves


def test_event_source_resumes(page: Page, served: Server) -> None:
    """EventSource gets messages, and a gap from the server that was started again on the same port."""
    page.open(f"{served.url}/health/live")
    page.run("""
        window.seen = [];
        window.stream = new EventSource('/lebowski');
        stream.onmessage = ({ data }) => seen.push(data);
        stream.addEventListener('gap', ({ data }) => seen.push(JSON.parse(data).reason));
        await until(() => stream.readyState === 1);
    """)
    push(served, "lebowski", 1)
    page.until("seen.length === 1")
    served.kill()
    with again(served) as server:
        page.until("seen.includes('epoch')", timeout=40)
        push(server, "lebowski", 2)
        assert page.run("await until(() => seen.length === 3); return seen") == ["1", "epoch", "2"]


# client.js

CLIENT = """
    const { connect } = await import('/client.js');
    window.seen = [];
    window.states = [];
    const onState = (state, { transport }) => states.push(transport ?? state);
    const onMessage = ({ channel, data }) => seen.push([channel, data]);
    const onGap = ({ channel, reason }) => seen.push([channel, reason]);
    const onError = ({ code }) => seen.push(['error', code]);
    let live = 0;
    const onSubscribed = () => live++;
    const handlers = { onMessage, onGap, onError, onSubscribed };
"""


def seen(page: Page, count: int, *, timeout: float = 20) -> list[Any]:
    """Return what the client's handlers were told, once it is so much."""
    told: list[Any] = page.run(f"await until(() => seen.length >= {count}); return seen", timeout=timeout)
    return told


def test_client_resumes(page: Page, served: Server) -> None:
    """Client keeps many channels on one socket, and resumes each when the server was killed and started again."""
    page.open(f"{served.url}/health/live")
    page.run(f"""{CLIENT}
        window.abide = connect(location.origin, {{ onState }});
        for (const channel of ['lebowski', 'walter']) abide.subscribe(channel, handlers);
        await until(() => live === 2);
    """)
    assert page.run("return abide.publish('lebowski', 1)").endswith(":1")
    assert seen(page, 1) == [["lebowski", 1]]
    served.kill()
    with again(served) as server:
        gaps = seen(page, 3, timeout=40)[1:]
        assert sorted(gaps) == [["lebowski", "epoch"], ["walter", "epoch"]]
        push(server, "walter", 2)
        assert seen(page, 4)[3:] == [["walter", 2]]
        assert page.run("return states").count("websocket") == 2


def test_client_loses_nothing_while_it_is_away(page: Page, served: Server) -> None:
    """Client that loses its socket before the first message gets what was published meanwhile."""
    page.open(f"{served.url}/health/live")
    page.run(f"""{CLIENT}
        let held = Promise.resolve();
        const sockets = [];
        class Recorded extends WebSocket {{ constructor(...given) {{ super(...given); sockets.push(this); }} }}
        const abide = connect(location.origin, {{ onState, WebSocket: Recorded, token: () => held }});
        abide.subscribe('lebowski', handlers);
        await until(() => live === 1);
        held = new Promise((resolve) => {{ window.letGo = resolve; }});
        sockets[0].close();
        await until(() => states.includes('waiting'));
    """)
    push(served, "lebowski", "meanwhile")
    assert page.run("letGo(); await until(() => seen.length); return seen") == [["lebowski", "meanwhile"]]


def test_client_asks_for_the_past_and_ends_what_is_refused(page: Page, served: Server) -> None:
    """Client begins where it is told to, and tells of a channel that does not exist, or exists no more."""
    for number in range(3):
        push(served, "lebowski", number)
    page.open(f"{served.url}/health/live")
    page.run(f"""{CLIENT}
        const abide = connect(location.origin, {{ onState }});
        abide.subscribe('lebowski', {{ ...handlers, last: 2 }});
        abide.subscribe('maude', handlers);
    """)
    assert sorted(seen(page, 3)) == [["error", "unknown_channel"], ["lebowski", 1], ["lebowski", 2]]
    served.write_channels("channels: {walter: {publish: anyone}}\n")
    assert seen(page, 4)[3] == ["error", "channel_removed"]


def test_client_unsubscribes_and_subscribes_again(page: Page, served: Server) -> None:
    """Client hears nothing of a channel that it left, and may come back to it at once on the same socket."""
    page.open(f"{served.url}/health/live")
    page.run(f"""{CLIENT}
        window.abide = connect(location.origin, {{ onState }});
        abide.subscribe('walter', handlers);
        const leave = abide.subscribe('lebowski', {{ ...handlers, onMessage: () => seen.push('left') }});
        await until(() => live === 2);
        leave();
        abide.subscribe('lebowski', handlers);
        await until(() => live === 3);
    """)
    push(served, "lebowski", 1)
    assert seen(page, 1) == [["lebowski", 1]]
    assert page.run("return states") == ["connecting", "websocket"]


def test_client_falls_back_to_event_streams(page: Page, served: Server) -> None:
    """Client that cannot open a WebSocket uses event streams, and is told there what is refused."""
    push(served, "lebowski", "old")
    page.open(f"{served.url}/health/live")
    page.run(f"""{CLIENT}
        class Blocked extends WebSocket {{ constructor(url) {{ super(url + '/nowhere'); }} }}
        const abide = connect(location.origin, {{ onState, WebSocket: Blocked }});
        abide.subscribe('lebowski', {{ ...handlers, since: 'earliest' }});
        abide.subscribe('maude', handlers);
        await until(() => live === 1);
    """)
    push(served, "lebowski", "new")
    assert sorted(seen(page, 3)) == [["error", "unknown_channel"], ["lebowski", "new"], ["lebowski", "old"]]
    assert "sse" in page.run("return states")


def test_client_takes_a_token_from_a_function(page: Page) -> None:
    """Client asks for its token each time that it publishes, and says why it was refused."""
    with Server(channels=GUARDED) as server:
        page.open(f"{server.url}/health/live")
        outcomes = page.run(f"""{CLIENT}
            const tokens = ['no-such-key', '{KEY}', '{KEY}'];
            const abide = connect(location.origin, {{ token: async () => tokens.shift() }});
            const refused = await abide.publish('orders', 1).catch(({{ code, status }}) => `${{code}} ${{status}}`);
            const position = await abide.publish('orders', 1, {{ key: 'once' }});
            return [refused, position, await abide.publish('orders', 1, {{ key: 'once' }})];
        """)
        assert outcomes[0] == "unauthorised 401"
        assert outcomes[1].endswith(":1")
        assert outcomes[1] == outcomes[2]


NODE = """
import { connect } from "data:text/javascript;base64,%s";
const abide = connect(process.argv[1]);
abide.subscribe("lebowski", {
  onSubscribed: () => abide.publish("lebowski", { from: "node" }),
  onMessage: ({ data }) => { console.log(JSON.stringify(data)); abide.close(); },
});
"""


def test_client_in_node(served: Server) -> None:
    """Client works with Node's own WebSocket; before Node 22 that is behind a flag."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    probe = subprocess.run((node, "-p", "parseInt(process.versions.node)"), capture_output=True, text=True, check=True)
    version = int(probe.stdout)
    if version < 20:
        pytest.skip(f"Node {version} has no WebSocket of its own")
    flags = ("--experimental-websocket",) if version < 22 else ()
    program = NODE % base64.b64encode(httpx.get(f"{served.url}/client.js").content).decode()
    command = (node, *flags, "--input-type=module", "--eval", program, served.url)
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.stdout == '{"from":"node"}\n', result.stderr
