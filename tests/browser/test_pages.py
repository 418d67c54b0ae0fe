"""The pages and the client in a real browser: the API's page, and all of them under a path that a proxy has them at."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.chromium import Page
from tests.support.nginx import Proxy
from tests.support.server import Server

KEY = "browser-key-1"
CHANNELS = (
    f"operators: key\nauth: {{keys: {KEY}}}\nchannels: {{lebowski: {{publish: anyone}}, orders: {{publish: key}}}}\n"
)
FORWARDED = """
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $http_connection;
"""
PREFIXES = {
    "none": ({}, f"location / {{ proxy_pass http://abide; {FORWARDED} }}", ""),
    "taken away": ({}, f"location /realtime/ {{ proxy_pass http://abide/; {FORWARDED} }}", "/realtime"),
    "kept": (
        {"ROOT_PATH": "/realtime"},
        f"location ~ ^/realtime(/|$) {{ proxy_pass http://abide; {FORWARDED} }}",
        "/realtime",
    ),
}
OPEN = "document.querySelector('#state').dataset.state === 'open'"


@pytest.fixture(scope="module", params=PREFIXES)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return where a proxy has the server, without a slash at the end."""
    env, location, prefix = PREFIXES[request.param]
    with Server(channels=CHANNELS, env=env) as server, Proxy(server.port, location) as proxy:
        yield f"http://127.0.0.1:{proxy.ports[0]}{prefix}"


def loaded(page: Page) -> list[str]:
    """Return the addresses of all that the page has asked for."""
    addresses: list[str] = page.run("return performance.getEntriesByType('resource').map(({ name }) => name)")
    return addresses


def click(page: Page, selector: str) -> None:
    page.until(f"document.querySelector({json.dumps(selector)}) !== null")
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def give_key(page: Page) -> None:
    page.until("!document.querySelector('#key-form').hidden")
    page.run(f"""
        document.querySelector('#key').value = {json.dumps(KEY)};
        document.querySelector('#key-form').requestSubmit();
    """)


def test_api_is_shown_and_tried(page: Page, url: str) -> None:
    """Page of the API asks for a key, shows every channel, publishes, and asks no other server for anything."""
    page.open(f"{url}/docs")
    give_key(page)
    click(page, "#operations-push-push_lebowski .opblock-summary-control")
    click(page, "#operations-push-push_lebowski .try-out__btn")
    click(page, "#operations-push-push_lebowski .execute")
    response = "#operations-push-push_lebowski .live-responses-table tbody .response-col_status"
    assert page.until(f"document.querySelector({json.dumps(response)})?.textContent").startswith("200")
    click(page, "#operations-push-push_orders .opblock-summary-control")
    click(page, "#operations-push-push_orders .try-out__btn")
    click(page, "#operations-push-push_orders .execute")
    response = response.replace("lebowski", "orders")
    assert page.until(f"document.querySelector({json.dumps(response)})?.textContent").startswith("200")
    assert page.run("return refused") == []
    addresses = loaded(page)
    assert f"{url}/push/orders" in addresses
    assert [address for address in addresses if not address.startswith((f"{url}/", "data:"))] == []


def test_console_works_under_any_path(page: Page, url: str) -> None:
    """Console lists, watches and publishes under the path that a proxy has it at, and lets one copy addresses there."""
    page.open(f"{url}/")
    give_key(page)
    click(page, "#list button[data-channel='orders']")
    page.until("document.querySelector('#channel-title').textContent === 'orders'")  # not the busiest, opened by itself
    page.until(OPEN)
    page.run("document.querySelector('#publish-form').requestSubmit()")
    page.until("document.querySelector('#messages').textContent.includes('world')")
    texts = page.run("return document.querySelector('#snippets').textContent")
    for address in (f"{url}/push/orders", f"{url}/client.js", f"ws{url.removeprefix('http')}/orders"):
        assert address in texts
    assert page.run("return refused") == []
    assert [address for address in loaded(page) if not address.startswith(f"{url}/")] == []
    assert page.run("return [...document.querySelectorAll('nav a')].map(({ href }) => href)") == [
        f"{url}/docs",
        f"{url}/client.js",
    ]


def test_client_works_under_any_path(page: Page, url: str) -> None:
    """Client publishes and subscribes, by WebSocket and by event stream, under the path that it is given."""
    page.open(f"{url}/health/live")
    got = page.run(f"""
        const {{ connect }} = await import({json.dumps(f"{url}/client.js")});
        const got = [];
        for (const options of [{{}}, {{ WebSocket: null }}]) {{
            const abide = connect({json.dumps(f"{url}/")}, options);
            let live = false;
            const onMessage = ({{ data }}) => got.push(data);
            abide.subscribe('lebowski', {{ onMessage, onSubscribed: () => live = true }});
            await until(() => live);
            await abide.publish('lebowski', got.length);
            await until(() => got.length === (options.WebSocket === null ? 2 : 1));
            abide.close();
        }}
        return got;
    """)
    assert got == [0, 1]


def test_the_path_without_its_slash_leads_to_the_console(page: Page, url: str) -> None:
    """Browser that goes to the path without the slash at its end comes to the console."""
    page.open(url)
    page.until("document.querySelector('#key-form') !== null && location.pathname.endsWith('/')")
    page.until("!document.querySelector('#key-form').hidden")


# What pages of other origins may do

PAGE = "channels: {a: {publish: anyone}}\n"


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Return a server whose pages are those of another origin."""
    with Server() as server:
        yield server


def test_a_listed_page_asks_with_credentials(page: Page, elsewhere: Server) -> None:
    """Page of a listed origin publishes with credentials, by fetch and by a beacon of JSON, and reads the answer."""
    with Server(channels=f"origins: ['{elsewhere.url}']\n{PAGE}") as server:
        page.open(f"{elsewhere.url}/health/live")
        read = page.run(f"""
            const url = {json.dumps(server.url)};
            const headers = {{ 'content-type': 'application/json', traceparent: '00-{"a" * 32}-{"b" * 16}-01' }};
            const options = {{ method: 'POST', credentials: 'include', headers, body: '1' }};
            const {{ offset }} = await (await fetch(`${{url}}/push/a`, options)).json();
            const beacon = new Blob(['2'], {{ type: 'application/json' }});
            const sent = navigator.sendBeacon(`${{url}}/push/a`, beacon);
            for (;;) {{
                const history = await fetch(`${{url}}/a/history`, {{ credentials: 'include' }});
                const {{ messages }} = await history.json();
                if (messages.length === 2) return [offset, sent, messages.map(({{ data }}) => data)];
            }}
        """)
        assert read == [1, True, [1, 2]]


def test_a_foreign_page_can_do_nothing(page: Page, elsewhere: Server) -> None:
    """Page of a foreign origin neither publishes nor reads, by none of the ways that a browser has."""
    with Server(channels=f"origins: ['https://app.example']\n{PAGE}") as server:
        page.open(f"{elsewhere.url}/health/live")
        outcomes = page.run(f"""
            const url = {json.dumps(server.url)};
            const outcome = (promise) => promise.then(({{ type }}) => type, () => 'refused');
            const push = (options) => outcome(fetch(`${{url}}/push/a`, {{ method: 'POST', body: '1', ...options }}));
            const opened = (link) => new Promise((resolve) => {{
                link.onopen = () => resolve('open');
                link.onerror = () => resolve('refused');
            }});
            const socket = opened(new WebSocket(`${{url.replace('http', 'ws')}}/a`));
            const stream = opened(new EventSource(`${{url}}/a`));
            navigator.sendBeacon(`${{url}}/push/a`, 'text');
            return [
                await push({{ mode: 'no-cors' }}),
                await push({{}}),
                await push({{ headers: {{ 'content-type': 'application/json' }} }}),
                await outcome(fetch(`${{url}}/a/history`)),
                await outcome(fetch(`${{url}}/channels`)),
                await socket,
                await stream,
            ];
        """)
        assert outcomes == ["opaque", *["refused"] * 6]
        server.wait_log(lambda line: line.get("path") == "/push/a" and line["status"] == 403)
        assert [line for line in server.log if line.get("path") == "/push/a" and line["status"] == 200] == []


def test_a_frame_without_an_origin_is_served_where_it_is_listed(page: Page, elsewhere: Server) -> None:
    """Frame that has no origin, because it is sandboxed, publishes where `null` is listed, and not where it is not."""
    with Server(channels=f"origins: ['null']\n{PAGE}") as listed, Server(channels=f"origins: []\n{PAGE}") as closed:
        page.open(f"{elsewhere.url}/health/live")
        statuses = page.run(f"""
            const script = `
                const push = (url) => fetch(url + '/push/a', {{ method: 'POST', body: 'x' }})
                    .then(({{ status }}) => status, () => 'refused');
                (async () => parent.postMessage([
                    await push({json.dumps(listed.url)}),
                    await push({json.dumps(closed.url)}),
                ], '*'))();
            `;
            const frame = document.createElement('iframe');
            frame.sandbox = 'allow-scripts';
            frame.srcdoc = `<script>${{script}}</${{'script'}}>`;
            const told = new Promise((resolve) => addEventListener('message', ({{ data }}) => resolve(data)));
            document.body.append(frame);
            return told;
        """)
        assert statuses == [200, "refused"]
