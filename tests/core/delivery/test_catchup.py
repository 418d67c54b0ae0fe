"""Catching up: pages that many read are read once, and kept within a bound."""

from __future__ import annotations

import asyncio

import pytest

from app.core.delivery.catchup import KEEP_SECONDS, PAGE_MESSAGES, PAGES_SHARED, Catchup, PageBudget
from app.core.message import Message, Page

HEAD = 10 * PAGE_MESSAGES


class Log:
    """A log of ten pages of messages of 100 bytes that counts its reads; one returns at most ``page`` messages."""

    def __init__(self, page: int = PAGE_MESSAGES) -> None:
        self.reads = 0
        self._page = page

    async def read(self, after: int, limit: int) -> Page:
        self.reads += 1
        last = min(after + min(limit, self._page), HEAD)
        return Page(1, HEAD, tuple(Message(offset, 0, b"x" * 100) for offset in range(after + 1, last + 1)), "e")


class Clock:
    """The time of the running loop: it goes on when a test says so, however slow the machine is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.usefixtures("clock")
async def test_a_page_that_many_ask_for_is_read_once() -> None:
    """Catchup reads a page once for all who ask at the same time, and a moment later."""
    log = Log()
    catchup = Catchup(log.read, lambda: "e")
    await asyncio.gather(*(catchup.after(offset) for offset in range(PAGE_MESSAGES)))
    await catchup.after(7)
    assert log.reads == 1


@pytest.mark.usefixtures("clock")
async def test_pages_that_end_early_are_shared_too() -> None:
    """Catchup reads on from where a page of large messages has ended, so that all who are past it share the next."""
    log = Log(page=100)
    catchup = Catchup(log.read, lambda: "e")
    found = await asyncio.gather(*(catchup.after(offset) for offset in range(PAGE_MESSAGES)))
    assert [messages[0].offset for _, messages in found] == [offset + 1 for offset in range(PAGE_MESSAGES)]
    assert log.reads == 3


@pytest.mark.usefixtures("clock")
async def test_very_large_messages_are_read_where_they_are_needed() -> None:
    """Catchup does not walk through pages of one message each: a subscriber would wait for all of them."""
    log = Log(page=1)
    await Catchup(log.read, lambda: "e").after(PAGE_MESSAGES - 1)
    assert log.reads <= PAGES_SHARED + 1


async def test_a_page_is_kept_for_a_moment_only(clock: Clock) -> None:
    """Catchup reads a page again when the moment is over: the log may have more by then."""
    log = Log()
    catchup = Catchup(log.read, lambda: "e")
    await catchup.after(0)
    clock.now += KEEP_SECONDS
    for _ in range(2):  # the loop looks at its clock, then calls what is due
        await asyncio.sleep(0)
    await catchup.after(0)
    assert log.reads == 2


async def test_a_page_that_is_long_in_coming_is_read_once(clock: Clock) -> None:
    """Catchup reads a page once for all who ask until it is there, however long that takes: a busy log gets no more."""
    log, there = Log(), asyncio.Event()

    async def read(after: int, limit: int) -> Page:
        page = await log.read(after, limit)
        await there.wait()
        return page

    catchup = Catchup(read, lambda: "e")
    first = asyncio.create_task(catchup.after(0))
    for _ in range(3):  # it asks, the loop looks at its clock, then calls what is due
        await asyncio.sleep(0)
        clock.now += KEEP_SECONDS
    second = asyncio.create_task(catchup.after(0))
    await asyncio.sleep(0)
    there.set()
    assert await first == await second
    assert log.reads == 1


@pytest.mark.usefixtures("clock")
async def test_pages_that_are_kept_are_bounded() -> None:
    """Catchups of all channels together keep so many bytes, and let go of the oldest page."""
    logs = Log(), Log()
    kept = PageBudget(3 * PAGE_MESSAGES * 310)
    one, other = (Catchup(log.read, lambda: "e", kept) for log in logs)
    for page in (0, 1):
        await one.after(page * PAGE_MESSAGES)
        await other.after(page * PAGE_MESSAGES)
    assert [log.reads for log in logs] == [2, 2]
    await other.after(0)
    await one.after(PAGE_MESSAGES)
    assert [log.reads for log in logs] == [2, 2]  # these were kept
    await one.after(0)
    assert [log.reads for log in logs] == [3, 2]  # this was the oldest


async def test_a_page_that_is_too_large_to_keep_is_handed_out() -> None:
    """Catchup returns what it reads, though it keeps nothing of it."""
    log = Log()
    catchup = Catchup(log.read, lambda: "e", PageBudget(1))
    for _ in range(2):
        _, messages = await catchup.after(0)
        assert len(messages) == PAGE_MESSAGES
    assert log.reads == 2
