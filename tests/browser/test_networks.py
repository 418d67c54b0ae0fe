"""Client.js and EventSource in a real browser, on networks and before servers that do not do what they should."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import httpx
import pytest
from anyio.from_thread import BlockingPortal

from app.bus.postgres import migrate
from tests.support.chromium import Page
from tests.support.local import wait_for
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.server import Server

CHANNELS = """
backend: ${DATABASE_URL:-memory://}
channels:
  news: {publish: anyone}
  "chat.{room}": {publish: anyone}
"""

HURRIED = (
    *(sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"),
    *("-k", "tests.support.hurried_worker.HurriedWorker", "app.main:create_app()"),
)
"""A server whose heartbeats come each second."""

HASTE = 20
"""How many times as fast as it should a page's time goes by."""

CLIENTS = """
    const { connect } = await import('/client.js');
    window.told = { socket: [], stream: [] };
    window.both = (word) => Object.values(told).every((heard) => heard.includes(word));
    window.begin = (channel) => {
        for (const [name, options] of Object.entries({ socket: {}, stream: { WebSocket: null } })) {
            const abide = connect(location.origin, { ...options, onState: (state) => told[name].push(state) });
            abide.subscribe(channel, {
                onSubscribed: () => told[name].push('live'),
                onMessage: ({ data, raw }) => told[name].push(`${typeof data} ${raw}`),
                onGap: () => told[name].push('gap'),
            });
        }
    };
"""
"""One client by WebSocket and one by event stream, and what both are told."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(channels=CHANNELS, command=HURRIED) as server:
        yield server


@pytest.fixture
def clients(page: Page, network: FaultProxy) -> Page:
    """Return a page whose script has ``begin(channel)``, ``told`` and ``both(word)``."""
    page.open(f"http://127.0.0.1:{network.port}/health/live")
    page.run(CLIENTS)
    return page


def push(server: Server, channel: str, body: str) -> int:
    headers = {"content-type": "application/json"}
    return httpx.post(f"{server.url}/push/{channel}", content=body, headers=headers).status_code


def messages(page: Page) -> list[list[str]]:
    """Return the messages that each client was told of, and gaps."""
    pattern = r"/ |gap/"
    heard: list[list[str]] = page.run(
        f"return Object.values(told).map((all) => all.filter((one) => {pattern}.test(one)))"
    )
    return heard


def test_a_network_that_goes_mute_is_noticed(
    clients: Page, network: FaultProxy, server: Server, portal: BlockingPortal
) -> None:
    """Clients give a connection up on which two heartbeats are missing, come back, and miss nothing."""
    clients.run("begin('chat.mute'); await until(() => both('live'))")
    push(server, "chat.mute", "1")
    clients.until("both('number 1')")
    clients.run(
        "await new Promise((resolve) => setTimeout(resolve, 3000)); told.quiet = [...told.socket, ...told.stream]"
    )
    assert "waiting" not in clients.run("const { quiet } = told; delete told.quiet; return quiet")
    portal.call(network.half_open)
    clients.until("both('waiting')")
    push(server, "chat.mute", "2")
    portal.call(network.heal)
    clients.until("both('number 2')")
    assert messages(clients) == [["number 1", "number 2"]] * 2


def test_a_network_that_says_nothing_is_given_up(
    clients: Page, network: FaultProxy, server: Server, portal: BlockingPortal
) -> None:
    """Clients give a connection up that is accepted and never answered, try again, and get through in the end."""
    clients.run(f"""
        const [later, soon] = [setTimeout, AbortSignal.timeout];
        window.setTimeout = (call, wait, ...given) => later(call, wait / {HASTE}, ...given);
        AbortSignal.timeout = (wait) => soon.call(AbortSignal, wait / {HASTE});
    """)
    portal.call(network.half_open)
    clients.run("begin('chat.silent')")
    clients.until("Object.values(told).every((heard) => heard.filter((one) => one === 'waiting').length > 1)")
    portal.call(network.heal)
    clients.run("await until(() => both('live'))")
    push(server, "chat.silent", "1")
    clients.until("both('number 1')")


def test_one_bad_message_is_one_message(
    clients: Page, network: FaultProxy, server: Server, portal: BlockingPortal
) -> None:
    """Clients hand over data that is no JSON, or that JavaScript rounds, as text, and go on."""
    clients.run("begin('chat.bad'); await until(() => both('live'))")
    portal.call(network.forge, b'"forged"', b"{forged:")
    exact = ['{"b" : 1E400, "a":[ 1.10,12345678901234567890123]}', "[" * 128 + "]" * 128, '"\\ud800"']
    for body in (*exact, '"forged"', '"last"'):
        assert push(server, "chat.bad", body) == 200
    clients.until("both('string \"last\"')")
    expected = [f"object {exact[0]}", f"object {exact[1]}", f"string {exact[2]}", "undefined {forged:", 'string "last"']
    assert messages(clients) == [expected] * 2


def test_what_is_no_frame_ends_a_connection_and_not_the_subscription(
    clients: Page, network: FaultProxy, server: Server, portal: BlockingPortal
) -> None:
    """Clients that read what no server of ours writes connect again, throw nothing, and miss nothing."""
    clients.run("begin('chat.odd'); await until(() => both('live'))")
    portal.call(network.forge, b'"seconds":', b'"forged!":')
    clients.until("both('waiting')")
    portal.call(network.heal)
    push(server, "chat.odd", "1")
    clients.until("both('number 1')")
    assert messages(clients) == [["number 1"]] * 2
    assert clients.run("return refused") == []


def test_what_can_never_be_sent_is_said_at_once(clients: Page) -> None:
    """Client whose address is none is not made; a token that no header can hold ends what needs it."""
    said = clients.run("""
        const { connect } = await import('/client.js');
        const said = [];
        for (const address of ['localhost:8000', 'ftp://example.org']) {
            try { connect(address); } catch (error) { said.push(error.message); }
        }
        for (const options of [{}, { WebSocket: null }]) {
            const abide = connect('/', { token: 'ключ', ...options });
            await new Promise((onError) => abide.subscribe('news', { onError })).then(({ code }) => said.push(code));
            await abide.publish('news', 1).catch(({ code }) => said.push(code));
        }
        return said;
    """)
    expected = "is not a server's address: expected http://host:port"
    assert said == [f"'localhost:8000' {expected}", f"'ftp://example.org' {expected}", *["unauthorised"] * 4]


def test_another_server_is_not_taken_for_abide(clients: Page) -> None:
    """Client of a server that is none of ours ends with what that one says, and takes no answer for a position."""
    said = clients.run("""
        const { connect } = await import('/client.js');
        const [ask, Socket] = [fetch, WebSocket];
        const outcomes = [];
        for (const options of [{}, { WebSocket: null }]) {
            window.fetch = async () => Response.json({ hello: 'world' }, { status: 404, statusText: 'Not Found' });
            const abide = connect('http://127.0.0.1:1/', options);
            const error = await new Promise((onError) => abide.subscribe('news', { onError }));
            outcomes.push([error.status, error.message]);
            window.fetch = async () => Response.json({ hello: 'world' });
            outcomes.push((await abide.publish('news', 1).catch((error) => error)).code);
        }
        return outcomes;
    """)
    assert said == [[404, "Not Found"], "refused"] * 2


def test_a_client_that_is_closed_listens_to_nothing(clients: Page) -> None:
    """Page that makes client after client keeps none of those that are closed."""
    left = clients.run("""
        const { connect } = await import('/client.js');
        const heard = new Set();
        const [add, remove] = [addEventListener, removeEventListener];
        window.addEventListener = (event, call) => { heard.add(event); add(event, call); };
        window.removeEventListener = (event, call) => { heard.delete(event); remove(event, call); };
        const abide = connect('/');
        const unsubscribe = abide.subscribe('news');
        const while_open = [...heard].sort();
        unsubscribe();
        return [while_open, [...heard]];
    """)
    assert left == [["online", "pageshow", "visibilitychange"], []]


def test_what_may_pass_is_tried_again(clients: Page) -> None:
    """Publishing is tried again after what passes, no sooner than Retry-After says, and not after other refusals."""
    outcome = clients.run("""
        const { connect } = await import('/client.js');
        const abide = connect(location.origin);
        const [real, times] = [fetch, []];
        const answers = [408, 502, 504, 429];
        window.fetch = async (...given) => {
            times.push(performance.now());
            const status = answers.shift();
            const headers = { 'retry-after': status === 429 ? '1' : '0' };
            const body = status === 429 ? '{"code": "too_many"}' : '';
            return status ? new Response(body, { status, headers }) : real(...given);
        };
        const position = await abide.publish('chat.again', 1);
        const waited = times[4] - times[3];
        answers.push(409);
        const refused = await abide.publish('chat.again', 1).catch(({ status }) => status);
        return [position, times.length, waited, refused];
    """)
    assert outcome[0].endswith(":1")
    assert outcome[1] == 6
    assert outcome[2] >= 1000
    assert outcome[3] == 409


def test_one_subscription_too_many_ends_alone(clients: Page) -> None:
    """Client with more channels than a connection may have is told so of the last one, and the others go on."""
    states = clients.run("""
        const { connect } = await import('/client.js');
        const [states, errors] = [[], []];
        let live = 0;
        const abide = connect(location.origin, { onState: (state) => states.push(state) });
        for (let room = 0; room < 101; room++) {
            const onError = ({ code }) => errors.push(code);
            abide.subscribe(`chat.many-${room}`, { onSubscribed: () => live++, onError });
        }
        await until(() => live === 100 && errors.length);
        return [...states, ...errors];
    """)
    assert states == ["connecting", "open", "too_many"]


def test_a_page_that_slept_looks_at_once(clients: Page) -> None:
    """Clients whose page wakes up after a minute connect again at once, and no stream that was left counts any more."""
    told = clients.run("""
        begin('chat.sleep');
        const { connect } = await import('/client.js');
        const states = [];
        let live = 0;
        const abide = connect(location.origin, { WebSocket: null, onState: (state) => states.push(state) });
        const leave = abide.subscribe('chat.left', { onSubscribed: () => live++ });
        abide.subscribe('chat.kept', { onSubscribed: () => live++ });
        abide.subscribe('maude', {});
        await until(() => live === 2 && both('live'));
        const now = Date.now;
        Date.now = () => now() + 60_000;
        dispatchEvent(new Event('pageshow'));
        const again = (heard) => heard.filter((one) => one === 'live').length > 1;
        await until(() => live === 4 && Object.values(told).every(again));
        leave();
        states.length = 0;
        await new Promise((resolve) => setTimeout(resolve, 2500));
        dispatchEvent(new Event('online'));
        return { ...told, states };
    """)
    assert told["socket"] == ["connecting", "open", "live", "waiting", "connecting", "open", "live"]
    assert told["stream"] == told["socket"]
    assert told["states"] == []


def test_a_close_that_does_not_pass_ends_all_subscriptions(clients: Page) -> None:
    """Client whose socket is closed for good tells each subscription why, and one that is made then connects anew."""
    told = clients.run("""
        const { connect } = await import('/client.js');
        const [sockets, told] = [[], []];
        class Stub {
            constructor() { sockets.push(this); setTimeout(() => this.onopen()); }
            send() {}
            close() {}
        }
        const abide = connect(location.origin, { WebSocket: Stub, onState: (state) => told.push(state) });
        const onError = ({ code }) => {
            told.push(code);
            if (sockets.length === 1) abide.subscribe('news', { onError });
        };
        abide.subscribe('news', { onError });
        for (const [turn, code] of [[1, 4403], [2, 4404]]) {
            await until(() => sockets.length === turn && abide.state === 'open');
            sockets[turn - 1].onclose({ code, reason: '' });
        }
        return told;
    """)
    assert told == ["connecting", "open", "forbidden", "waiting", "connecting", "open", "channel_removed", "closed"]


def test_event_source_waits_for_postgres(page: Page) -> None:
    """EventSource that connects while Postgres is away does not give up, and gets what comes when it is back."""
    with PostgresServer() as postgres:
        asyncio.run(migrate(postgres.url()))
        with Server(channels=CHANNELS, env={"DATABASE_URL": postgres.url()}) as server:
            page.open(f"{server.url}/health/live")
            postgres.stop("immediate")
            page.run("""
                window.seen = [];
                window.stream = new EventSource('/news?since=earliest');
                stream.onmessage = ({ data }) => seen.push(data);
                stream.onerror = () => seen.push(stream.readyState);
                await until(() => stream.readyState === 1 || seen.length);
            """)
            postgres.start()
            wait_for(lambda: push(server, "news", '"back"') == 200, timeout=30)
            assert page.run("await until(() => seen.length); return seen", timeout=30) == ['"back"']
