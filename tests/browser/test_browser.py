"""client.js, and what browsers do by themselves, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
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
"""
DURABLE = "backend: ${DATABASE_URL}\n" + CHANNELS
"""Of a server whose log outlives it."""


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
