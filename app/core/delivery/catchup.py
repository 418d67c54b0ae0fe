"""Reads of the log that many wait for are made once.

After a deploy thousands of subscribers come back at nearly the same position. What the tail no
longer holds they read in the same aligned pages, each of which is asked for once and kept for a
moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.core.epochs import name
from app.core.errors import UnavailableError
from app.core.message import Message, Page

PAGE_MESSAGES = 256

KEEP_SECONDS = 1.0

_STALE_AT_MOST = 2
"""The aligned page and the exact one may both be older than the cursor; the next one is read now."""

TURN_SECONDS = 0.05
"""Between two reads while the log is in another epoch than this process knows of."""

PATIENCE_SECONDS = 5.0
"""How long that is waited for."""

KEPT_BYTES = 16 * 1024 * 1024
"""What is kept of all channels together, at most."""

_OVERHEAD = 200
"""Bytes that CPython takes for a message besides its data."""

Read = Callable[[int, int], Awaitable[Page]]
"""Reads at most so many messages (second) past an offset (first)."""


class PageBudget:
    """Bounds the bytes of the pages that are kept, of all channels of a process: the oldest goes first."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._used = 0
        self._sizes: dict[tuple[Catchup, tuple[int, int]], int] = {}

    def take(self, catchup: Catchup, key: tuple[int, int], page: Page) -> None:
        """Count a page, and let go of old ones that no longer fit."""
        size = _OVERHEAD + sum([len(message.data) + _OVERHEAD for message in page.messages])
        self.drop(catchup, key)
        self._sizes[catchup, key] = size
        self._used += size
        while self._used > self._limit:
            catchup, key = next(iter(self._sizes))
            catchup.drop(key)

    def drop(self, catchup: Catchup, key: tuple[int, int]) -> None:
        """Count a page no more."""
        self._used -= self._sizes.pop((catchup, key), 0)


class Catchup:
    """One channel's pages. They are kept for a moment, and as long as ``kept`` has room.

    ``epoch`` returns the label of what this process is handed. Only pages of the same epoch are given out: else a
    reader could get messages of two histories.
    """

    __slots__ = ("_budget", "_epoch", "_pages", "_read")

    def __init__(self, read: Read, epoch: Callable[[], str], budget: PageBudget | None = None) -> None:
        self._read = read
        self._epoch = epoch
        self._budget = budget or PageBudget()
        self._pages: dict[tuple[int, int], asyncio.Task[Page]] = {}

    async def window(self, offset: int = 0) -> Page:
        """Return a page without messages: the ends of what the history shows, or showed a moment ago.

        Who asks with an offset shares it only with those who asked with the same one.
        """
        return await self._page(offset, 0)

    async def after(self, offset: int) -> tuple[int, tuple[Message, ...]]:
        """Return the oldest offset shown, and the next messages past ``offset``; none when there are none."""
        at, stale = offset - offset % PAGE_MESSAGES, 0
        while True:
            page = await self._page(at, PAGE_MESSAGES)
            newer = tuple(message for message in page.messages if message.offset > offset)
            if newer or page.first > offset + 1 or stale == _STALE_AT_MOST:
                return page.first, newer
            if page.head > offset and page.messages:
                at = offset  # it was cut short by its bytes; those who go on where it ends ask for the same
            else:  # it was read before there was anything past our offset
                self._forget((at, PAGE_MESSAGES), page)
                at, stale = offset, stale + 1

    async def _page(self, at: int, limit: int) -> Page:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            page = await self._any_page(at, limit)
            if name(page.lineage) == name(self._epoch()):
                return page
            if time.monotonic() > deadline:
                msg = "the log has begun an epoch that this server has not reached yet: try again in a moment"
                raise UnavailableError(msg)
            self._forget((at, limit), page)
            await asyncio.sleep(TURN_SECONDS)

    async def _any_page(self, at: int, limit: int) -> Page:
        key = (at, limit)
        task = self._pages.get(key)
        if task is None:
            loop = asyncio.get_running_loop()
            task = self._pages[key] = loop.create_task(self._fetch(at, limit))
            task.add_done_callback(_retrieve)
            loop.call_later(KEEP_SECONDS, self.drop, key)
        # Who waits may go away; the read is for the others too.
        return await asyncio.shield(task)

    def _forget(self, key: tuple[int, int], page: Page) -> None:
        """Forget a page, unless it is being read anew already."""
        task = self._pages.get(key)
        if task is not None and task.done() and task.result() is page:
            self.drop(key)

    def drop(self, key: tuple[int, int]) -> None:
        """Keep a page no longer."""
        self._pages.pop(key, None)
        self._budget.drop(self, key)

    async def _fetch(self, at: int, limit: int) -> Page:
        try:
            page = await self._read(at, limit)
        except BaseException:
            self._pages.pop((at, limit), None)  # a failure is not kept for who comes next
            raise
        self._budget.take(self, (at, limit), page)
        return page


def _retrieve(task: asyncio.Task[Page]) -> None:
    """Take note of a failure that nobody may be waiting for any more."""
    if not task.cancelled():
        task.exception()
