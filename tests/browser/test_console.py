"""The console in a real browser, on two workers that share a Postgres."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.browser.conftest import CHANNELS
from tests.support.chromium import Page
from tests.support.processes import ROOT
from tests.support.server import Server

KEY = "browser-key-1"
GUARDED = f"operators: key\nauth: {{keys: {KEY}}}\nchannels: {{orders: {{publish: key}}}}\n"
FOR_OPERATORS = "This server shows its state to operators"
SUBSCRIBERS = 7
LOOKS = 5
AXE = ROOT / "tests/npm/node_modules/axe-core/axe.min.js"
SCHEMES = ("light", "dark")


@pytest.fixture
def console(page: Page) -> Iterator[Page]:
    """Return a tab whose log must have no error, and whose page must refuse nothing and throw nothing, in the end."""
    yield page
    assert page.run("return refused") == []
    assert page.log == []


def push(server: Server, channel: str, message: object) -> str:
    position: str = httpx.post(f"{server.url}/push/{channel}", json=message).raise_for_status().json()["position"]
    return position


def text(selector: str) -> str:
    """Return the expression that is an element's text."""
    return f"document.querySelector({json.dumps(selector)}).textContent"


def shown(message: str) -> str:
    """Return the expression that is true when the table shows a text."""
    return f"{text('#messages')}.includes({json.dumps(message)})"


def click(page: Page, selector: str) -> None:
    page.until(f"document.querySelector({json.dumps(selector)})?.checkVisibility()")
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def watch(page: Page, server: Server, channel: str) -> None:
    """Open the console at a channel, and wait until it is live."""
    page.open(f"{server.url}/#{channel}")
    page.until("document.querySelector('#state').dataset.state === 'open'")


def enter(page: Page, form: str, content: str) -> None:
    """Fill in a form's one field, and send it."""
    page.run(f"""
        const form = document.querySelector('#{form}');
        form.querySelector('input, textarea').value = {json.dumps(content)};
        form.requestSubmit();
    """)


def scheme(page: Page, name: str) -> None:
    page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])


def violations(page: Page) -> list[str]:
    """Return what axe-core finds on the page as it is now, in light and in dark."""
    page.command("Runtime.evaluate", expression=AXE.read_text())
    found = []
    for name in SCHEMES:
        scheme(page, name)
        found += page.run(
            "const { violations } = await axe.run();"
            "return violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));"
        )
    return found


# The landing page


def test_every_look_shows_the_subscribers_of_all_workers(console: Page, server: Server) -> None:
    """Console shows both workers and all subscribers of a channel, in five looks in a row."""
    seen = set()
    with contextlib.ExitStack() as stack:
        for _ in range(SUBSCRIBERS):
            stack.enter_context(connect(f"{server.ws_url}/quiet"))
        row = "document.querySelector('#list [data-channel=quiet]')?.closest('tr')?.children[1].textContent"
        console.open(f"{server.url}/")
        console.until(f"{row} === '{SUBSCRIBERS}'")  # a worker tells of a new one within a quarter of a second
        for _ in range(LOOKS):
            console.open(f"{server.url}/?")
            seen.add((console.until(row), console.until(text("#workers"))))
    assert seen == {(str(SUBSCRIBERS), "2 workers")}


def test_the_landing_page_shows_what_all_workers_do(console: Page, server: Server) -> None:
    """Console shows health, backend, rates, the age of deliveries and the busiest channel, and opens that by itself."""
    console.open(f"{server.url}/")
    console.until("document.querySelector('#busiest-none').checkVisibility()")
    with connect(f"{server.ws_url}/chat.busy", max_queue=None):
        for number in range(30):
            push(server, "chat.busy", number)
        console.until(f"{text('#channel-title')} === 'chat.busy'")
        console.until(f"{text('#busiest .name')} === 'chat.busy'")
        console.until(f"{text('#tile-p99 dd')}.endsWith(' ms')")
        console.until(f"!['', '0'].includes({text('#tile-in dd')}) && !['', '0'].includes({text('#tile-out dd')})")
        console.until(shown("29"))
    assert console.run(f"return {text('#health')}") == "Healthy"
    assert console.run(f"return {text('#backend')}").startswith("postgres at ")
    assert console.run(f"return {text('#warnings-list')}").startswith("anyone may publish to 'orders'")
    assert console.run("return location.hash") == "#chat.busy"


def test_a_choice_is_not_overtaken_by_the_busiest_channel(console: Page, server: Server) -> None:
    """Channel that one has clicked opens, although the busiest becomes known before the browser tells of the click."""
    console.command(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            const hold = (event) => event.stopImmediatePropagation();
            addEventListener('hashchange', hold);
            globalThis.tellOfTheClick = () => {
                removeEventListener('hashchange', hold);
                dispatchEvent(new Event('hashchange'));
            };
        """,
    )
    console.open(f"{server.url}/")
    console.until("document.querySelector('#busiest-none').checkVisibility()")
    click(console, "#list button[data-channel='orders']")
    for number in range(30):
        push(server, "chat.busy", number)
    console.until("document.querySelector('#busiest .name')?.textContent === 'chat.busy'")
    console.run("tellOfTheClick()")
    console.until(f"{text('#channel-title')} === 'orders'")


def test_a_chart_is_read_by_arrow_keys_and_over_a_range(console: Page, server: Server) -> None:
    """Chart has axes, tells the values under the arrow keys, and shows as much time as is chosen."""
    console.open(f"{server.url}/")
    for number in range(20):
        push(server, "orders", number)
    console.until("document.querySelector('#rates .line')?.getAttribute('d').length > 0")
    console.run("document.querySelector('#rates .plot').focus()")
    press(console, "ArrowLeft")
    assert " · in " in console.until(text("#rates .readout"))
    labels = "[...document.querySelectorAll('#rates .tick')].map(({ textContent }) => textContent)"
    minute = console.run(f"return {labels}")
    assert "0" in minute
    console.run(
        "const range = document.querySelector('#range'); range.value = 900; range.dispatchEvent(new Event('change'))"
    )
    assert console.run(f"return {labels}") != minute


@contextlib.contextmanager
def own_server(console: Page) -> Iterator[Server]:
    """Start a server that the page has left before it ends: the page would miss it, and say so in its log."""
    with Server(channels=CHANNELS) as server:
        yield server
        assert console.run("return refused") == []
        console.open("about:blank")


def test_a_first_start_says_what_to_type(console: Page) -> None:
    """Console of a server without messages says how to publish one, publishes it, and shows it; axe finds nothing."""
    with own_server(console) as server:
        console.open(f"{server.url}/")
        console.until("!document.querySelector('#start').hidden")
        assert (
            f"curl -H 'content-type: application/json' -d '{{\"hello\":\"world\"}}' '{server.url}/push/lebowski'"
            in (console.run(f"return {text('#first')}"))
        )
        console.until("!document.querySelector('#overview').hidden")
        assert violations(console) == []
        click(console, "#first-publish")
        console.until(shown('{"hello":"world"}'))


def test_an_added_channel_appears(console: Page) -> None:
    """Console shows a channel that is added to channels.yaml, and it can be chosen and used."""
    with own_server(console) as server:
        console.open(f"{server.url}/")
        console.until("document.querySelector('#list [data-channel=quiet]') !== null")
        server.write_channels(CHANNELS + "  donny: {publish: anyone}\n")
        click(console, "#list button[data-channel=donny]")
        console.until("document.querySelector('#state').dataset.state === 'open'")
        push(server, "donny", "out of his element")
        console.until(shown("out of his element"))


# A channel


def test_what_was_and_what_is_pushed_is_shown(console: Page, server: Server) -> None:
    """Console shows what was and what is pushed, digit for digit, publishes, and says how to use the channel."""
    push(server, "lebowski", "from before")
    watch(console, server, "lebowski")
    console.until(shown("from before"))
    push(server, "lebowski", {"from": "a push"})
    console.until(shown('{"from":"a push"}'))
    enter(console, "publish-form", '{"exact": [1e400, 12345678901234567890, "a b"]}')
    console.until(shown('{"exact":[1e400,12345678901234567890,"a b"]}'))
    assert console.until(text("#published")).startswith("stored at ")
    assert "1,000 messages, 24h" in console.run(f"return {text('#policy')}")
    assert f"{server.url}/push/lebowski" in console.run(f"return {text('#snippets')}")


def test_what_is_not_json_is_said_and_not_stored(console: Page, server: Server) -> None:
    """Console refuses to publish what is not JSON, says why, and how text is written."""
    watch(console, server, "chat.strict")
    enter(console, "publish-form", "hello")
    said = console.until(text("#published"))
    assert said.startswith("Not published, because it is not JSON")
    assert said.endswith('Put text into double quotes: "hello"')
    enter(console, "publish-form", '"hello"')
    console.until(shown('"hello"'))
    messages = httpx.get(f"{server.url}/chat.strict/history").json()["messages"]
    assert [message["data"] for message in messages] == ["hello"]


def test_markup_in_a_message_stays_text(console: Page, server: Server) -> None:
    """Console shows markup in a message's names and values as the text that it is, in the row and opened."""
    markup = "<img src=x onerror=refused.push('ran')>"
    push(server, "chat.markup", {markup: [markup, "</script><script>refused.push('ran')</script>"]})
    watch(console, server, "chat.markup")
    console.until(shown(markup))
    click(console, "#rows button")
    console.until(f"{text('.detail pre')}.includes({json.dumps(markup)})")
    assert console.run("return document.querySelectorAll('img, #messages script').length") == 0


def test_signs_of_direction_change_nothing_but_their_string(console: Page, server: Server) -> None:
    """Console shows each key before its value, whatever direction the words in both have."""
    raw = '{"שלום":"עולם","x":"\u202e evil","n":12}'
    httpx.post(f"{server.url}/push/chat.rtl", content=raw.encode(), headers=JSON).raise_for_status()
    watch(console, server, "chat.rtl")
    console.until("document.querySelector('#rows .open')")
    parts = "#rows .data :is(.json-key, .json-string, .json-number)"
    places = f"[...document.querySelectorAll('{parts}')].map((part) => part.getBoundingClientRect().left)"
    lefts = console.run(f"return {places}")
    assert len(lefts) == 6
    assert lefts == sorted(lefts)
    assert not console.run("return document.querySelector('#older').checkVisibility()")


def test_a_message_opens_to_its_coloured_json(console: Page, server: Server) -> None:
    """Message opens to its JSON over several lines, its parts told apart, with its position and a link to it."""
    position = push(server, "chat.pretty", {"id": 7, "tags": [], "ok": True, "name": "Ada"})
    watch(console, server, "chat.pretty")
    click(console, "#rows button")
    opened = console.until(text(".detail pre"))
    assert opened == '{\n  "id": 7,\n  "tags": [],\n  "ok": true,\n  "name": "Ada"\n}'
    kinds = console.run("return [...document.querySelectorAll('.detail pre span')].map(({ className }) => className)")
    assert {"json-key", "json-number", "json-word", "json-string", "json-mark"} == set(kinds)
    assert console.run("return document.querySelector('.detail a').href") == f"{server.url}/#chat.pretty/{position}"


def test_messages_are_filtered_and_paused(console: Page, server: Server) -> None:
    """Console shows the messages with all the words of the filter, holds new ones while paused, and then shows them."""
    for fruit in ("apple", "pear", "Apple pie"):
        push(server, "chat.filter", {"fruit": fruit})
    watch(console, server, "chat.filter")
    console.until("document.querySelectorAll('#rows tr').length === 3")
    console.run("const field = document.querySelector('#filter'); field.value = 'apple fruit'; field.oninput()")
    assert console.run("return document.querySelectorAll('#rows tr:not([hidden])').length") == 2
    assert console.run(f"return {text('#counted')}") == "2 of 3 messages"
    click(console, "#pause")
    push(server, "chat.filter", {"fruit": "apple tart"})
    console.until(f"{text('#pause')} === 'Resume, 1 new'")
    assert not console.run(f"return {shown('apple tart')}")
    click(console, "#pause")
    console.until(shown("apple tart"))


def test_the_history_is_paged_back_to_its_beginning(console: Page, server: Server) -> None:
    """Console loads older messages page by page, digit for digit, until it has the oldest that is kept."""
    first = httpx.post(f"{server.url}/push/chat.long", content=b'[12345678901234567890, {"a": "x, ]}"}]', headers=JSON)
    first.raise_for_status()
    items = [{"channel": "chat.long", "message": number} for number in range(119)]
    httpx.post(f"{server.url}/push", json=items).raise_for_status()
    watch(console, server, "chat.long")
    rows = "document.querySelectorAll('#rows tr').length"
    for count in (50, 100, 120):
        console.until(f"{rows} === {count}")
        console.run("document.querySelector('#older').click()")
    assert console.until(text("#older-note")) == "This is the oldest message that is kept."
    push(server, "chat.long", "last")
    console.until(shown("last"))
    assert not console.run("return document.querySelector('#older').checkVisibility()")
    assert console.run("return document.querySelector('#rows tr:last-child .data').textContent") == (
        '[12345678901234567890,{"a":"x, ]}"}]'
    )


JSON = {"content-type": "application/json"}


def test_a_link_leads_to_a_position(console: Page, server: Server) -> None:
    """Link to a position shows what was before and after it, and from there the way leads to what is live."""
    positions = [push(server, "chat.linked", number) for number in range(60)]
    console.open(f"{server.url}/#chat.linked/{positions[10]}")
    console.until("document.querySelector('.is-linked') !== null")
    linked = console.run("return document.querySelector('.is-linked').dataset.position")
    assert linked == positions[10]
    assert console.run(f"return {text('.detail pre')}") == "10"
    click(console, "#newer")
    console.until("document.querySelector('#rows tr').dataset.position.endsWith(':60')")
    click(console, "#live")
    push(server, "chat.linked", "news")
    console.until(shown('"news"'))


def test_old_messages_make_no_latency(console: Page, server: Server) -> None:
    """Chart of a channel counts what came since the page subscribed, and not the age of older messages."""
    push(server, "chat.late", "old")
    watch(console, server, "chat.late")
    console.until(shown("old"))
    click(console, "#tab-charts")
    drawn = "document.querySelector('#channel-latency :is(.line, .dot)[d^=M], #channel-latency .dot')"
    console.until("document.querySelector('#channel-rate .line')?.getAttribute('d')")
    assert console.run(f"return {drawn}") is None
    push(server, "chat.late", "new")
    console.until(f"{drawn} !== null")


def test_nothing_older_is_offered_than_the_first_message(console: Page, server: Server) -> None:
    """Console has no button for older messages where it shows the first of the log."""
    for number in range(2):
        push(server, "chat.first", number)
    watch(console, server, "chat.first")
    console.until("document.querySelectorAll('#rows tr').length === 2")
    assert not console.run("return document.querySelector('#older').checkVisibility()")


def test_one_of_a_family_is_asked_for(console: Page, server: Server) -> None:
    """Console asks which channel of a family to watch."""
    console.open(f"{server.url}/#quiet")
    click(console, "#list button[data-channel='chat.{room}']")
    assert console.run("return document.activeElement.id + ' ' + document.activeElement.value") == "watch chat."
    enter(console, "watch-form", "chat.a")
    console.until(f"{text('#channel-title')} === 'chat.a'")
    push(server, "chat.a", "in the room")
    console.until(shown("in the room"))


# Who may see it, and how


def test_a_key_is_asked_for_once(page: Page) -> None:
    """Console and the page of the API ask for a key once in a tab, and forget it when they are told to."""
    with Server(channels=GUARDED) as server:
        page.open(f"{server.url}/")
        page.until("!document.querySelector('#key-form').hidden")
        enter(page, "key-form", "no-such-key")
        page.until("document.querySelector('#list-problem').textContent.includes('none of the configured')")
        assert page.run(f"return [{text('#key-title')}, {text('#health-detail')}]") == [FOR_OPERATORS, ""]
        enter(page, "key-form", KEY)
        click(page, "#list button[data-channel=orders]")
        page.until("document.querySelector('#state').dataset.state === 'open'")
        enter(page, "publish-form", '{"with": "a key"}')
        page.until(shown('{"with":"a key"}'))
        page.open(f"{server.url}/?again")
        page.until("!document.querySelector('#overview').hidden")
        assert page.run("return document.querySelector('#key-form').hidden")
        page.open(f"{server.url}/docs")
        page.until("document.querySelector('.swagger-ui .info') !== null")
        page.open(f"{server.url}/?forget")
        click(page, "#forget")
        page.open(f"{server.url}/?forgotten")
        page.until("!document.querySelector('#key-form').hidden")
        assert page.run("return refused") == []


def press(page: Page, key: str, content: str = "") -> None:
    """Press and release a key, as a keyboard does."""
    code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}[key]
    page.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=content)
    page.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, and see that this shows."""
    for _ in range(40):
        press(page, "Tab")
        if page.run(f"return document.activeElement.matches({json.dumps(selector)})"):
            assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    pytest.fail(f"{selector} is not reached by Tab")


def test_all_of_it_can_be_used_by_keyboard(console: Page, server: Server) -> None:
    """Console can be used without a mouse: choose a channel, publish, open a message, and copy a program."""
    console.open(f"{server.url}/")
    console.until("document.querySelector('#list [data-channel=lebowski]')?.checkVisibility()")
    tab_to(console, "#list button[data-channel='lebowski']")
    press(console, "Enter", "\r")
    console.until("document.querySelector('#state').dataset.state === 'open'")
    tab_to(console, "#data")
    console.run("document.activeElement.select()")
    console.command("Input.insertText", text='"by keyboard"')
    tab_to(console, "#publish-form button")
    press(console, "Enter", "\r")
    console.until(shown('"by keyboard"'))
    tab_to(console, "#messages")
    tab_to(console, "#rows .open")
    press(console, "Enter", "\r")
    console.until("document.querySelector('.detail pre') !== null")
    console.run("document.querySelector('#tab-messages').focus()")
    press(console, "ArrowRight")
    press(console, "ArrowRight")
    tab_to(console, "#snippets button")


def test_axe_finds_nothing_in_the_way_of_people(console: Page, server: Server) -> None:
    """Console has nothing that axe-core finds in the way of people, in any view of a channel, in light and in dark."""
    for number in range(5):
        push(server, "chat.axe", {"number": number, "ok": True, "text": "a", "none": None})
    watch(console, server, "chat.axe")
    click(console, "#rows button")
    console.until("!document.querySelector('#overview').hidden && document.querySelector('#busiest button') !== null")
    console.run("document.querySelector('#warnings').open = true")
    found = violations(console)
    for tab in ("charts", "code"):
        click(console, f"#tab-{tab}")
        found += violations(console)
    assert found == []


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(console: Page, server: Server, width: int) -> None:
    """Console fits into the width of a desktop and of a phone, whatever a message has in it."""
    console.command("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=False)
    push(server, "chat.wide", {"long": "x" * 3000})
    watch(console, server, "chat.wide")
    click(console, "#rows button")
    for tab in ("messages", "charts", "code"):
        click(console, f"#tab-{tab}")
        assert console.run("return document.documentElement.scrollWidth") <= width


def test_the_files_of_the_console_are_small() -> None:
    """Scripts and styles of the console are short enough to be read at once."""
    files = [path for path in (ROOT / "app/web/console").rglob("*") if path.suffix in {".js", ".css", ".html"}]
    assert [path.name for path in files if len(Path(path).read_text().splitlines()) > 350] == []
