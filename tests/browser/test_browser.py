"""The console and client.js in a real browser."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chromium import Page
from tests.support.processes import free_port
from tests.support.server import Server

CHANNELS = """
channels:
  lebowski: {publish: anyone}
  walter: {publish: anyone}
  "chat.{room}": {publish: anyone}
"""
KEY = "browser-key-1"
GUARDED = f"operators: key\nauth: {{keys: {KEY}}}\nchannels: {{orders: {{publish: key}}}}\n"

DURABLE = "backend: ${DATABASE_URL}\n" + CHANNELS
"""Of a server whose log outlives it."""

READABLE = 4.5
"""The least contrast of text that WCAG 2 calls readable (AA)."""

OPEN = "document.querySelector('#state').dataset.state === 'open'"


@pytest.fixture
def served() -> Iterator[Server]:
    with Server(channels=CHANNELS) as server:
        yield server


def durable(database_url: str, port: int) -> Server:
    """Return a server on a port, with a log that was there before it."""
    server = Server(channels=DURABLE, env={"PORT": str(port), "DATABASE_URL": database_url})
    server.port = port
    return server


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
    enter(page, "publish-form", '{"exact": [1e400, 12345678901234567890, "a b"]}')
    page.until(shown('{"exact":[1e400,12345678901234567890,"a b"]}'))
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


def press(page: Page, key: str, text: str = "") -> None:
    """Press and release a key, as a keyboard does."""
    code = {"Tab": 9, "Enter": 13}[key]
    page.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
    page.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, and see that this shows."""
    for _ in range(30):
        press(page, "Tab")
        if page.run(f"return document.activeElement.matches({json.dumps(selector)})"):
            assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    pytest.fail(f"{selector} is not reached by Tab")


def test_console_can_be_used_by_keyboard(page: Page, served: Server) -> None:
    """Console can be used without a mouse: choose a channel, publish, and reach the messages and what to copy."""
    page.open(f"{served.url}/")
    page.until(button("lebowski"))
    tab_to(page, "#list button[data-channel='lebowski']")
    press(page, "Enter", "\r")
    page.until(OPEN)
    tab_to(page, "#watch")
    tab_to(page, "#data")
    page.run("document.activeElement.select()")
    page.command("Input.insertText", text='"by keyboard"')
    tab_to(page, "#publish-form button")
    press(page, "Enter", "\r")
    page.until(shown('"by keyboard"'))
    tab_to(page, "#messages")
    tab_to(page, "#snippets button")
    assert page.run("return refused") == []


CONTRASTS = """
    const luminance = ([red, green, blue]) => {
        const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        return 0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
    };
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const behind = (element) => {
        const colour = parts(getComputedStyle(element).backgroundColor);
        return colour.length === 3 || colour[3] === 1 ? colour : behind(element.parentElement);
    };
    return Object.fromEntries(SELECTORS.map((selector) => {
        const element = document.querySelector(selector);
        const pair = [parts(getComputedStyle(element).color), behind(element)].map(luminance).sort((a, b) => b - a);
        return [selector, (pair[0] + 0.05) / (pair[1] + 0.05)];
    }));
"""
TEXTS = ["h1", "#state", "nav a", "h2", "th", "td", "td button", "label", "#watch", "#watch-form button", "#policy"]
TEXTS += ["figcaption", "figcaption output", "#data", "#publish-form button", "#published", "#list-problem"]
TEXTS += ["#messages time", "#messages .offset", "#messages .data", "h4", "pre", ".snippet button"]


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_console_is_readable_in_light_and_dark(page: Page, served: Server, scheme: str, is_dark: bool) -> None:  # noqa: FBT001
    """Console follows the light or dark scheme of its user, and each of its texts stands out from what is behind it."""
    page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    push(served, "lebowski", "a message")
    page.open(f"{served.url}/")
    choose(page, "lebowski")
    page.until(shown("a message"))
    back = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back))) < 3 * 128) is is_dark
    contrasts = page.run(f"const SELECTORS = {json.dumps(TEXTS)}; {CONTRASTS}")
    assert {text: contrast for text, contrast in contrasts.items() if contrast < READABLE} == {}


# What browsers do by themselves


def test_event_source_resumes_after_a_restart(page: Page, served: Server) -> None:
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


def test_event_source_loses_nothing(page: Page, database_url: str) -> None:
    """EventSource that saw the server killed and started again goes on with the message after its last one."""
    port = free_port()
    with durable(database_url, port) as server:
        page.open(f"{server.url}/health/live")
        page.run("""
            window.seen = [];
            window.stream = new EventSource('/lebowski');
            stream.onmessage = ({ data }) => seen.push(JSON.parse(data));
            stream.addEventListener('gap', () => seen.push('gap'));
            await until(() => stream.readyState === 1);
        """)
        for number in range(3):
            push(server, "lebowski", number)
        page.until("seen.length === 3")
        server.kill()
    with durable(database_url, port) as server:
        for number in range(3, 6):
            push(server, "lebowski", number)
        assert seen(page, 6, timeout=40) == list(range(6))
        push(server, "lebowski", 6)
        assert seen(page, 7) == list(range(7))


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


def test_client_resumes_each_channel_after_a_crash(page: Page, served: Server) -> None:
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


def test_client_falls_back_after_a_restart(page: Page, database_url: str) -> None:
    """Client that cannot open a WebSocket resumes each channel on event streams when the server was started again."""
    port = free_port()
    with durable(database_url, port) as server:
        page.open(f"{server.url}/health/live")
        page.run(f"""{CLIENT}
            class Blocked extends WebSocket {{ constructor(url) {{ super(url + '/nowhere'); }} }}
            window.abide = connect(location.origin, {{ onState, WebSocket: Blocked }});
            for (const channel of ['lebowski', 'walter']) abide.subscribe(channel, handlers);
            await until(() => live === 2);
        """)
        push(server, "lebowski", 1)
        assert seen(page, 1) == [["lebowski", 1]]
        server.kill()
    with durable(database_url, port) as server:
        push(server, "lebowski", 2)
        push(server, "walter", 2)
        told = seen(page, 3, timeout=40)
        assert sorted(told[1:]) == [["lebowski", 2], ["walter", 2]]
        push(server, "lebowski", 3)
        assert seen(page, 4)[3:] == [["lebowski", 3]]
        assert page.run("return states").count("sse") >= 2


def test_client_is_told_of_a_gap_though_its_socket_breaks_before(page: Page, served: Server) -> None:
    """Client whose socket breaks between the word that it did not resume and the gap is told of the gap later."""
    page.open(f"{served.url}/health/live")
    page.run(f"""{CLIENT}
        let first;
        class Breaking extends WebSocket {{
            constructor(...given) {{ super(...given); first ??= this; }}
            set onmessage(take) {{
                super.onmessage = take && ((event) => {{
                    if (this !== first || event.data.includes('"subscribed"')) take(event);
                    if (this === first) this.close();
                }});
            }}
        }}
        const abide = connect(location.origin, {{ onState, WebSocket: Breaking }});
        abide.subscribe('lebowski', {{ ...handlers, since: 'old:3' }});
    """)
    assert seen(page, 1) == [["lebowski", "epoch"]]
