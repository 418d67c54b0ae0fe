"""Shares reads of the log among the subscriptions that catch up.

After a deploy thousands of subscribers reconnect with nearly the same position. They read what the
tail no longer holds in aligned pages: each page is read once, and cached for a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from app.core.epochs import name
from app.core.errors import UnavailableError
from app.core.message import Message, Page

PAGE_MESSAGES = 256

KEEP_SECONDS = 1.0

PAGES_SHARED = 8
"""How many pages that ended early are walked through from an aligned offset, so that all share them."""

_STALE_AT_MOST = 2
"""How many cached pages may be older than the cursor: the aligned one and the exact one. The next is read now."""

TURN_SECONDS = 0.05
"""Pause between two reads while the log is in an epoch that this process has not reached."""

PATIENCE_SECONDS = 5.0
"""How long to wait for this process to reach the epoch of the log."""

KEPT_BYTES = 16 * 1024 * 1024
"""The most bytes of cached pages, over all channels."""

_OVERHEAD = 200
"""Bytes that CPython needs for a message besides its data."""

Read = Callable[[int, int], Awaitable[Page]]
"""Reads at most so many messages (second) past an offset (first)."""


class PageBudget:
    """Limits the bytes of the cached pages of all channels of a process: the oldest page is dropped first."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._used = 0
        self._sizes: OrderedDict[tuple[Catchup, tuple[int, int]], int] = OrderedDict()

    def take(self, catchup: Catchup, key: tuple[int, int], page: Page) -> None:
        """Count a page, and drop the oldest pages until all fit."""
        size = _OVERHEAD + sum([len(message.data) + _OVERHEAD for message in page.messages])
        self.drop(catchup, key)
        self._sizes[catchup, key] = size
        self._used += size
        while self._used > self._limit:
            catchup, key = next(iter(self._sizes))
            catchup.drop(key)

    def drop(self, catchup: Catchup, key: tuple[int, int]) -> None:
        """Stop counting a page."""
        self._used -= self._sizes.pop((catchup, key), 0)


class Catchup:
    """Reads one channel's pages, and caches them for a moment and within a budget.

    ``epoch`` returns the label of the channel's newest message in this process. Only pages of that epoch are returned:
    otherwise a subscription could get messages of two histories.
    """

    __slots__ = ("_budget", "_epoch", "_pages", "_read")

    def __init__(self, read: Read, epoch: Callable[[], str], budget: PageBudget | None = None) -> None:
        self._read = read
        self._epoch = epoch
        self._budget = budget or PageBudget()
        self._pages: dict[tuple[int, int], asyncio.Task[Page]] = {}

    async def window(self, offset: int = 0) -> Page:
        """Return a page without messages: the first offset and the head of the history, now or a moment ago.

        Callers share the page only with those who passed the same offset.
        """
        return await self._page(offset, 0)

    async def after(self, offset: int) -> tuple[int, tuple[Message, ...]]:
        """Return the oldest offset of the history, and the next messages past ``offset``, if there are any."""
        at, stale, ended_early = offset - offset % PAGE_MESSAGES, 0, 0
        while True:
            page = await self._page(at, PAGE_MESSAGES)
            newer = tuple(message for message in page.messages if message.offset > offset)
            if newer or page.first > offset + 1 or stale == _STALE_AT_MOST:
                return page.first, newer
            if page.head > offset and page.messages:
                ended_early += 1  # because of its size
                at = page.messages[-1].offset if ended_early < PAGES_SHARED else offset
            else:  # the page was read before there was anything past our offset
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
        # A caller may be cancelled; the read goes on for the others.
        return await asyncio.shield(task)

    def _forget(self, key: tuple[int, int], page: Page) -> None:
        """Drop a page, unless it is being read again already."""
        task = self._pages.get(key)
        if task is not None and task.done() and task.result() is page:
            self.drop(key)

    def drop(self, key: tuple[int, int]) -> None:
        """Drop a page from the cache."""
        self._pages.pop(key, None)
        self._budget.drop(self, key)

    async def _fetch(self, at: int, limit: int) -> Page:
        try:
            page = await self._read(at, limit)
        except BaseException:
            self._pages.pop((at, limit), None)  # a failure is not cached
            raise
        self._budget.take(self, (at, limit), page)
        return page


def _retrieve(task: asyncio.Task[Page]) -> None:
    """Retrieve the error of a task that nobody may be waiting for any more."""
    if not task.cancelled():
        task.exception()
