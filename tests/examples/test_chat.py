"""``examples/chat``, started as its README says and opened in a real browser."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.support.chromium import Chromium, Page
from tests.support.example import Example, command_of

LINES = "[...document.querySelectorAll('#lines li')].map((line) => line.textContent)"
STATE = "document.getElementById('state').textContent"


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
    page.until(f"{STATE} === 'connected as {name}'")


def say(page: Page, text: str) -> None:
    page.run(f"document.getElementById('text').value = '{text}'; document.getElementById('say').requestSubmit();")


def says(page: Page, *lines: str) -> None:
    """Wait until these are the lines of the room."""
    page.until(f"JSON.stringify({LINES}) === JSON.stringify({list(lines)})", timeout=40)


def test_two_people_chat_and_a_third_comes_late(chromium: Chromium, chat: Example) -> None:
    """Chat shows each what the other says, with the name of the login; who comes late or reloads sees what was said."""
    said = ["Walter: this is not Nam", "Donny: there are rules"]
    with opened(chromium, chat.url) as walter, opened(chromium, chat.url) as donny:
        log_in(walter, "Walter")
        log_in(donny, "Donny")
        say(walter, "this is not Nam")
        says(donny, said[0])
        say(donny, "there are rules")
        says(walter, *said)
        walter.open(chat.url)
        says(walter, *said)
        assert walter.log == donny.log == []
        with opened(chromium, chat.url) as dude:
            log_in(dude, "Dude")
            says(dude, *said)
        with opened(chromium, f"{chat.url}/?room=cats") as alone:
            log_in(alone, "Dude")
            says(alone)


def test_nobody_can_write_in_another_name(chat: Example) -> None:
    """Chat takes a line only with a token of the application's, and writes the token's name to it."""
    with httpx.Client(base_url=chat.url) as http:
        for headers in ({}, {"authorization": "Bearer forged"}):
            assert http.post("/rooms/rug", json={"text": "hello"}, headers=headers).status_code == 401
        own = {"authorization": f"Bearer {http.post('/login', json={'name': 'Donny'}).json()}"}
        push = http.post("/realtime/push/chat.rug", json={"from": "Walter", "text": "hello"}, headers=own)
        assert (push.status_code, push.json()["code"]) == (403, "forbidden")
        http.post("/rooms/rug", json={"from": "Walter", "text": "hello"}, headers=own).raise_for_status()
        history = http.get("/realtime/chat.rug/history", headers=own).json()["messages"]
    assert [message["data"] for message in history] == [{"from": "Donny", "text": "hello"}]


def ends_quietly(chat: Example) -> None:
    """Press Ctrl-C: all processes end, and none says a word."""
    pids, before = chat.pids(), chat.output()
    chat.end(signal.SIGINT)
    assert [command_of(pid) for pid in pids if command_of(pid)] == []
    assert chat.output() == before


def test_ctrl_c_ends_the_chat_and_its_page_comes_back(chromium: Chromium) -> None:
    """Chat ends on Ctrl-C; the page says so, and when it is started again, comes back and says what memory has lost."""
    with Example("chat") as first, opened(chromium, first.url) as page:
        log_in(page, "Walter")
        say(page, "over the line")
        says(page, "Walter: over the line")
        ends_quietly(first)
        page.until(f"{STATE}.startsWith('reconnecting')")
        with Example("chat", port=first.port):
            page.until(f"{STATE} === 'connected as Walter'", timeout=30)
            say(page, "mark it zero")
            says(page, "Walter: over the line", "… some messages are no longer held …", "Walter: mark it zero")


def test_who_loses_the_server_sees_all(chromium: Chromium, database_url: str) -> None:
    """Chat keeps its lines in Postgres; whoever lost the server sees each of them once when it is back."""
    env = {"DATABASE_URL": database_url}
    with Example("chat", env) as first, opened(chromium, first.url) as walter:
        log_in(walter, "Walter")
        say(walter, "one")
        says(walter, "Walter: one")
        ends_quietly(first)
        with Example("chat", env, port=first.port) as second, opened(chromium, second.url) as donny:
            log_in(donny, "Donny")
            say(donny, "two")
            for page in (walter, donny):
                says(page, "Walter: one", "Donny: two")
