"""``examples/chat`` and ``examples/orders``, started as their READMEs say and opened in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import asyncpg
import httpx
import pytest

from tests.support.chromium import Chromium, Page
from tests.support.example import Example, command_of

LINES = "[...document.querySelectorAll('#lines li')].map((line) => line.textContent)"
CELLS = "[...row.cells].slice(1, 3).map((cell) => cell.textContent)"
ROWS = f"[...document.querySelectorAll('#orders tr')].map((row) => {CELLS})"
ORDER = "INSERT INTO orders (item) VALUES ($1)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def chat() -> Iterator[Example]:
    with Example("chat") as chat:
        yield chat


@contextlib.contextmanager
def opened(chromium: Chromium, url: str) -> Iterator[Page]:
    """Open a page, which throws nothing until it is left."""
    with chromium.page() as page:
        page.open(url)
        yield page
        assert page.run("return refused;") == []


def log_in(page: Page, name: str) -> None:
    page.run(f"document.getElementById('name').value = '{name}'; document.getElementById('login').requestSubmit();")
    page.until(f"document.getElementById('state').textContent === 'connected as {name}'")


def say(page: Page, text: str) -> None:
    page.run(f"document.getElementById('text').value = '{text}'; document.getElementById('say').requestSubmit();")


def says(page: Page, *lines: str) -> None:
    """Wait until these are the lines of the room."""
    page.until(f"JSON.stringify({LINES}) === JSON.stringify({list(lines)})")


def test_two_people_chat_and_a_third_comes_late(chromium: Chromium, chat: Example) -> None:
    """Chat shows each what the other says, with the name of the login; who comes late sees what was said."""
    with opened(chromium, chat.url) as walter, opened(chromium, chat.url) as donny:
        log_in(walter, "Walter")
        log_in(donny, "Donny")
        say(walter, "this is not Nam")
        says(donny, "Walter: this is not Nam")
        say(donny, "there are rules")
        says(walter, "Walter: this is not Nam", "Donny: there are rules")
        with opened(chromium, chat.url) as dude:
            log_in(dude, "Dude")
            says(dude, "Walter: this is not Nam", "Donny: there are rules")
        with opened(chromium, f"{chat.url}/?room=cats") as alone:
            log_in(alone, "Dude")
            says(alone)


def test_nobody_can_write_in_another_name(chat: Example) -> None:
    """Chat takes a line only with a token of the application's, and the channel takes none from outside."""
    with httpx.Client(base_url=chat.url) as http:
        for headers in ({}, {"authorization": "Bearer forged"}):
            assert http.post("/rooms/lobby", json={"text": "hello"}, headers=headers).status_code == 401
        token = http.post("/login", json={"name": "Donny"}).json()
        push = http.post("/realtime/push/chat.lobby", json=1, headers={"authorization": f"Bearer {token}"})
        assert (push.status_code, push.json()["code"]) == (403, "forbidden")


def test_orders_of_sql_show_when_they_are_committed(chromium: Chromium, database_url: str) -> None:
    """Dashboard shows what SQL and the page order, and what becomes of it, but nothing that is rolled back."""

    async def order() -> None:
        connection = await asyncpg.connect(database_url)
        undone = connection.transaction()
        await undone.start()
        await connection.execute(ORDER, "a ringer")
        await undone.rollback()
        await connection.execute(ORDER, "a rug")
        await connection.close()

    with Example("orders", {"DATABASE_URL": database_url}) as orders, opened(chromium, orders.url) as page:
        page.until("document.getElementById('state').textContent === 'open'")
        asyncio.run(order())
        page.until(f'JSON.stringify({ROWS}) === \'[["a rug","placed"]]\'')
        page.run("document.getElementById('item').value = 'milk'; document.getElementById('place').requestSubmit();")
        page.until(f"{ROWS}.length === 2")
        page.run("document.querySelector('#orders tr:last-child button').click();")
        page.until(f'JSON.stringify({ROWS}) === \'[["milk","placed"],["a rug","shipped"]]\'')


def test_ctrl_c_ends_the_chat_and_its_page_comes_back(chromium: Chromium) -> None:
    """Chat ends with all its processes; the page says so, and comes back with a new token when it is started again."""
    with Example("chat") as chat, opened(chromium, chat.url) as page:
        log_in(page, "Walter")
        say(page, "over the line")
        says(page, "Walter: over the line")
        ends_with(chat, signal.SIGINT)
        page.until("document.getElementById('state').textContent.startsWith('reconnecting: ')")
        with Example("chat", port=chat.port):
            page.until("document.getElementById('state').textContent === 'connected as Walter'", timeout=30)
            say(page, "mark it zero")
            says(page, "Walter: over the line", "… some messages are no longer held …", "Walter: mark it zero")


def test_sigterm_ends_the_orders_and_their_database() -> None:
    """Orders end with all their processes, of which one is PostgreSQL, where DATABASE_URL names no other."""
    with Example("orders") as orders:
        assert [pid for pid in orders.pids() if "postgres" in command_of(pid)]
        ends_with(orders, signal.SIGTERM)


def ends_with(example: Example, number: signal.Signals) -> None:
    """Send a signal; all processes end, and none complains."""
    pids = example.pids()
    example.end(number)
    assert [command_of(pid) for pid in pids if command_of(pid)] == []
    assert b"Traceback" not in example.output()
