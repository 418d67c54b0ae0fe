"""client.js with tokens, in a real browser and against a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.chromium import Page
from tests.support.server import Server
from tests.support.tokens import OLD_SECRET, SECRET, token_of

KEY, UNUSUAL_KEY = "first-key-1", "a/key+with=signs"
CHANNELS = f"""
origins: []
auth: {{keys: [{KEY}, {UNUSUAL_KEY}], tokens: {{secret: {SECRET}, leeway: 1s, cookie: session}}}}
channels:
  "user.{{id}}": {{subscribe: {{claim: sub}}, publish: [key, {{claim: sub}}]}}
  news: {{publish: key, subscribe: key}}
"""

CLIENTS = """
    const { connect } = await import('/client.js');
    window.told = { socket: [], stream: [] };
    window.calls = { socket: [], stream: [] };
    window.both = (word, count = 1) =>
        Object.values(told).every((heard) => heard.filter((one) => one === word).length >= count);
    window.begin = (channel, tokens) => {
        for (const [name, options] of Object.entries({ socket: {}, stream: { WebSocket: null } })) {
            const token = !Array.isArray(tokens) ? tokens : async () => {
                calls[name].push(performance.now());
                return tokens[calls[name].length - 1] ?? Promise.reject(new Error('the login does not answer'));
            };
            const onState = (state, { transport }) => told[name].push(transport ?? state);
            const abide = connect(location.origin, { ...options, token, onState });
            abide.subscribe(channel, {
                onSubscribed: () => told[name].push('live'),
                onMessage: ({ data }) => told[name].push(data),
                onGap: () => told[name].push('gap'),
                onError: ({ code, status, message }) => told[name].push(`${code} ${status}`, message),
            });
        }
    };
"""
"""One client by WebSocket and one by event stream, what both are told, and when each asked for a token.

The n-th call of a client gets the n-th of the tokens, and fails when there are no more.
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(channels=CHANNELS) as server:
        yield server


@pytest.fixture
def clients(page: Page, server: Server) -> Page:
    """Return a page whose script has ``begin(channel, tokens)``, ``told``, ``calls`` and ``both(word)``."""
    page.open(f"{server.url}/health/live")
    page.run(CLIENTS)
    return page


def begin(clients: Page, sub: str, tokens: list[str] | str) -> None:
    clients.run(f"begin({json.dumps(f'user.{sub}')}, {json.dumps(tokens)})")


def post(server: Server, path: str, body: object) -> None:
    httpx.post(f"{server.url}{path}", json=body, headers={"authorization": f"Bearer {KEY}"}).raise_for_status()


def told(clients: Page) -> dict[str, list[Any]]:
    """Return what each client was told."""
    heard: dict[str, list[Any]] = clients.run("return told")
    return heard


def is_calm(clients: Page) -> bool:
    """Return whether no client asked for a token twice within a second."""
    calm: bool = clients.run(
        "return Object.values(calls).every((times) => times.every((time, n) => !n || time - times[n - 1] > 990))"
    )
    return calm


def test_a_token_is_replaced_before_it_ends(clients: Page, server: Server) -> None:
    """Client replaces its token on the open socket, comes back with an event stream, and misses nothing."""
    begin(clients, "42", [token_of("42", 2.2), token_of("42")])
    clients.until("both('live')")
    end = time.monotonic() + 3.7
    numbers = list[int]()
    while time.monotonic() < end:
        numbers.append(len(numbers))
        post(server, "/push/user.42", numbers[-1])
        time.sleep(0.1)
    clients.until(f"both({numbers[-1]})")
    heard = told(clients)
    assert heard["socket"] == ["connecting", "websocket", "live", *numbers]
    assert [one for one in heard["stream"] if isinstance(one, int)] == numbers
    assert [one for one in heard["stream"] if not isinstance(one, int)] == [
        *("connecting", "sse", "live", "waiting", "connecting", "sse", "live"),
    ]
    assert clients.run("return [calls.socket.length, calls.stream.length]") == [2, 2]
    assert is_calm(clients)


def test_a_token_that_was_taken_back_is_replaced(clients: Page, server: Server) -> None:
    """Clients whose token was taken back come back with another one, and miss nothing."""
    begin(clients, "43", [token_of("43", age=60), token_of("43")])
    clients.until("both('live')")
    post(server, "/push/user.43", 1)
    clients.until("both(1)")
    post(server, "/revoke", {"sub": "43", "before": time.time() - 30})
    post(server, "/push/user.43", 2)
    clients.until("both(2)")
    for name, transport in (("socket", "websocket"), ("stream", "sse")):
        came = ["connecting", transport, "live"]
        assert told(clients)[name] == [*came, 1, "waiting", *came, 2]
    assert is_calm(clients)


def test_a_token_that_is_refused_at_the_door_is_replaced(clients: Page, server: Server) -> None:
    """Clients whose first token is not good ask for another one, and the one with a socket comes back with a socket."""
    begin(clients, "44", [token_of("44", secret=OLD_SECRET), token_of("44")])
    clients.until("both('live')")
    post(server, "/push/user.44", 1)
    clients.until("both(1)")
    assert clients.run("return [calls.socket.length, calls.stream.length]") == [2, 2]
    assert told(clients)["socket"][-3:] == ["websocket", "live", 1]
    assert is_calm(clients)


@pytest.mark.parametrize("kind", ["same", "bad", "failing"])
def test_a_function_without_a_good_token_is_an_error(clients: Page, kind: str) -> None:
    """Clients whose function has no token that the server takes ask it once more, and then say so."""
    first, second = (token_of("45", secret=OLD_SECRET, age=age) for age in (0, 1))
    begin(clients, "45", {"same": [first, first], "bad": [first, second], "failing": []}[kind])
    clients.until("both('unauthorised 401')")
    clients.until("both('closed')")
    words = {
        "same": "no token: the function returned the token that was refused",
        "failing": "no token: the login does not answer",
    }
    for heard in told(clients).values():
        assert heard[-1] == "closed"
        assert kind == "bad" or heard[-2] == words[kind]
    assert clients.run("return [calls.socket.length, calls.stream.length]") == [2, 2]
    assert is_calm(clients)


def test_a_text_that_ends_is_an_error(clients: Page) -> None:
    """Clients that were given a token as a text say when it has ended, and do not come back."""
    begin(clients, "46", token_of("46", 1.5))
    clients.until("both('expired 4408')")
    clients.until("both('closed')")
    for heard in told(clients).values():
        assert heard[2] == "live"
        assert heard.count("connecting") == 1


def test_a_cookie_may_have_a_new_token(clients: Page, server: Server) -> None:
    """Clients without a token of their own come back when that in the cookie has ended, with the new cookie."""
    clients.run(f"document.cookie = 'session={token_of('51', 0.5)}; path=/'; begin('user.51')")
    clients.until("both('live')")
    clients.run(f"document.cookie = 'session={token_of('51')}; path=/'")
    clients.until("both('live', 2)")
    post(server, "/push/user.51", 1)
    clients.until("both(1)")
    clients.run("document.cookie = 'session=; path=/; max-age=0'")


def test_a_publisher_whose_token_is_refused_takes_another(clients: Page) -> None:
    """Publisher asks for another token when one is refused, keeps it, and says why when there is none."""
    outcomes = clients.run(f"""
        const {{ connect }} = await import('/client.js');
        const tokens = {json.dumps([token_of("47", -10), token_of("47"), token_of("48")])};
        let calls = 0;
        const publisher = connect(location.origin, {{ token: async () => tokens[calls++] }});
        const text = connect(location.origin, {{ token: tokens[0] }});
        const told = [await publisher.publish('user.47', 1), await publisher.publish('user.47', 2), calls];
        for (const refused of [publisher.publish('user.48', 1), text.publish('user.47', 1)]) {{
            told.push(await refused.catch(({{ code, status }}) => `${{code}} ${{status}}`));
        }}
        return told;
    """)
    assert [outcome.partition(":")[2] for outcome in outcomes[:2]] == ["1", "2"]
    assert outcomes[2:] == [2, "forbidden 403", "unauthorised 401"]


def test_a_key_that_no_subprotocol_can_hold_is_sent_all_the_same(clients: Page, server: Server) -> None:
    """Client whose key has signs that may not be in a subprotocol uses event streams, where it is a header."""
    clients.run(f"begin('news', {json.dumps(UNUSUAL_KEY)})")
    clients.until("both('live')")
    post(server, "/push/news", 1)
    clients.until("both(1)")
    assert told(clients)["socket"] == ["connecting", "sse", "live", 1]


def test_an_error_points_at_what_does_not_fit(clients: Page) -> None:
    """Publisher of a message that does not fit its schema gets the JSON pointer, and does not try again."""
    outcome = clients.run("""
        const { connect } = await import('/client.js');
        const problem = { code: 'schema_mismatch', detail: 'it is no number', pointer: '/id' };
        let attempts = 0;
        window.fetch = async () => { attempts++; return Response.json(problem, { status: 422 }); };
        const { code, status, pointer } = await connect(location.origin).publish('news', {}).catch((error) => error);
        return [code, status, pointer, attempts];
    """)
    assert outcome == ["schema_mismatch", 422, "/id", 1]


LOOKS = "performance.getEntriesByType('resource').filter(({name}) => name.includes('/console/overview')).length"


def test_console_goes_on_asking_for_a_channels_token(page: Page, server: Server) -> None:
    """Console asks until it has a token, though everything else is open and is looked at each second."""
    page.open(f"{server.url}/#user.50")
    page.until("!document.querySelector('#key-form').hidden")
    looks = page.run(f"return {LOOKS};")
    page.until(f"{LOOKS} >= {looks} + 2")
    assert page.run("return !document.querySelector('#key-form').hidden;")
    assert page.run("return document.querySelector('#key-title').textContent") == "user.50 asks for a key or a token"


def test_console_subscribes_with_a_token(page: Page, server: Server) -> None:
    """Console asks for a token where a channel needs one, works with it, and asks again when it has ended."""
    page.open(f"{server.url}/#user.50")
    for seconds in (0.5, 60):
        page.until("!document.querySelector('#key-form').hidden")
        page.run(f"""
            document.querySelector('#key-form').hidden = true;
            document.querySelector('#key').value = {json.dumps(token_of("50", seconds))};
            document.querySelector('#key-form').requestSubmit();
        """)
    page.until("document.querySelector('#state').dataset.state === 'open'")
    page.run("document.querySelector('#publish-form').requestSubmit()")
    page.until("document.querySelector('#messages').textContent.includes('world')")
