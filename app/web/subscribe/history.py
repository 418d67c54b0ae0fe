"""``GET /{channel}/history``: stored messages as JSON, and long-polling for clients without sockets or streams."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.types import Receive, Scope, Send

from app.core import epochs
from app.core.channel import Channel
from app.core.delivery import encodings
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, ExpiredError, ForbiddenError, MalformedError, UnauthorisedError
from app.core.limits.places import Places
from app.core.message import Message, Page
from app.core.ports import Source, Writer
from app.core.resume import Beginning, Gap, Start, begin
from app.core.rights.policy import Identity
from app.web.edge.access import LINE
from app.web.edge.draining import lasting
from app.web.subscribe.asgi_writer import disconnected

MAX_LIMIT = 1000
MAX_WAIT = 60
DEFAULT_LIMIT = 100

More = Callable[[int, int], Awaitable[Page]]
"""Reads messages past an offset (first argument), at most so many (second)."""

_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]

_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)


class HistoryReader:
    """Answers requests for the history of channels."""

    def __init__(self, hub: Hub, source: Source, places: Places) -> None:
        self._hub = hub
        self._source = source
        self._places = places

    async def answer(  # noqa: PLR0913, PLR0917 — the parts of a request, and its caller
        self, name: str, channel: Channel, identity: Identity, query: Mapping[str, str], scope: Scope, receive: Receive
    ) -> HistoryResponse:
        """Return the response to one request; raise :class:`~app.core.errors.AbideError` to refuse it.

        If there are no messages and the query has ``wait``, wait at most so many seconds for one.
        """
        start = Start.parse(query.get("since", "earliest"), None)
        limit = _number(query, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        wait = _number(query, "wait", 0, MAX_WAIT)
        page, where = await self._read(name, channel, start, limit)
        if not page.messages and wait:
            scope[LINE].take_place(self._places)
            waiter = _Waiter(wait)
            gone = asyncio.create_task(disconnected(receive))
            gone.add_done_callback(lambda _: waiter.stop())
            try:
                with lasting(scope, waiter.stop):
                    page, where = await self._poll(name, channel, identity, start, limit, waiter)
            finally:
                gone.cancel()
        self._check(name, identity)  # what came while it waited may be newer than its right
        return HistoryResponse(partial(self._more, name, channel, identity), page, where, limit)

    def _check(self, name: str, identity: Identity) -> None:
        """Raise if the caller's right has ended since its request came."""
        if identity.ends is not None and time.time() >= identity.ends:
            msg = "the right to read has expired while the request was answered: send a new token"
            raise ExpiredError(msg)
        self._hub.check(name, identity)

    async def _more(self, name: str, channel: Channel, identity: Identity, after: int, limit: int) -> Page:
        self._check(name, identity)
        return await self._source.read(name, after, limit, channel.history)

    async def _read(self, name: str, channel: Channel, start: Start, limit: int) -> tuple[Page, Beginning]:
        if start.earliest:  # from the first message on, so no gap is possible
            page = await self._source.read(name, 0, limit, channel.history)
            return page, begin(start, page.lineage, page.first, page.head)
        while True:
            ends = await self._source.read(name, 0, 0, channel.history)
            where = begin(start, ends.lineage, ends.first, ends.head)
            page = await self._source.read(name, where.cursor, limit, channel.history)
            if epochs.name(page.lineage) == epochs.name(ends.lineage):
                return page, where

    async def _poll(  # noqa: PLR0913, PLR0917 — a question, and how long it may take
        self, name: str, channel: Channel, identity: Identity, start: Start, limit: int, waiter: _Waiter
    ) -> tuple[Page, Beginning]:
        """Wait until a message arrives or time is up; return what there is then."""
        subscription, _ = await self._hub.subscribe(name, identity, encodings.PLAIN_TEXTS)
        self._hub.meter.connected("poll")
        try:
            subscription.attach(waiter, waiter)
            page, where = await self._read(name, channel, start, limit)  # a message may have come in between
            if not page.messages and await waiter.news():
                page, where = await self._read(name, channel, start, limit)
            if waiter.refusal is not None:
                raise waiter.refusal
        finally:
            self._hub.meter.disconnected("poll")
            self._hub.unsubscribe(subscription)
        return page, where


class _Waiter(Writer):
    """A writer and subscriber that only notices that something was sent."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._news = asyncio.Event()
        self.refusal: AbideError | None = None
        """Why the caller may not read any more; None if it may."""

    async def news(self) -> bool:
        """Wait at most ``seconds`` for a message or the end; return whether one came."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Let :meth:`news` return."""
        self._news.set()

    def write(self, data: bytes) -> None:  # noqa: ARG002 — here and below, the call alone matters
        self._news.set()

    def is_full(self) -> bool:
        return False

    def close(self, code: int, reason: str) -> None:
        """Nothing to close."""

    def pause(self) -> None:
        """Nothing to read."""

    def resume(self) -> None:
        """Nothing to read."""

    def lost(self, subscription: Subscription, gap: Gap) -> None:  # noqa: ARG002
        self._news.set()

    def ended(self, subscription: Subscription, error: AbideError) -> None:  # noqa: ARG002
        if isinstance(error, UnauthorisedError | ForbiddenError | ExpiredError):
            self.refusal = error
        self._news.set()


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not _NUMBER.fullmatch(text) or int(text) > most:
        msg = f"{name!r} must be a whole number from 0 to {most}, not {text[:40]!r}"
        raise MalformedError(msg)
    return int(text)


class HistoryResponse:
    """An ASGI application that sends the messages: in one body if one page has them all, otherwise page by page.

    Each page is read after the client has taken the ones before it, so a client that reads slowly, or not at all,
    makes the server hold two pages. ``first`` and ``last`` are those of the newest page. ``complete`` is about all
    pages: it is false also if messages between two pages expired before they were read. The response ends early if the
    log cannot be read on, or began another epoch meanwhile: what it has is whole, and less than ``last`` says.
    """

    def __init__(self, more: More, page: Page, where: Beginning, limit: int) -> None:
        self._more = more
        self._page = page
        self._left = limit - len(page.messages)
        """How many more messages the client wants after those of the page."""
        self._next = where.cursor + 1
        """Offset of the next message if none is missing."""
        self._is_complete = where.gap is None
        self._comma = b""
        """What comes before the next message."""
        self._lineage = page.lineage
        self._epoch = epochs.label(page.lineage).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        body, headers = b'{"messages":[' + self._messages(), _HEADERS
        is_whole = not self._has_more()
        if is_whole:
            body += self._end()
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            body, is_whole = b"", True
        await send({"type": "http.response.body", "body": body, "more_body": not is_whole})
        if not is_whole:
            await self._send_more(receive, send)

    async def _send_more(self, receive: Receive, send: Send) -> None:
        """Send the other pages, unless the client disconnects."""
        gone = asyncio.create_task(disconnected(receive))
        try:
            while self._has_more() and not gone.done():
                page = await self._read_on()
                if page is None:
                    break
                self._page = page
                self._left -= len(self._page.messages)
                if body := self._messages():
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": self._end()})
        finally:
            gone.cancel()

    async def _read_on(self) -> Page | None:
        """Return the page after the present one, None if there is none that surely continues it."""
        try:
            page = await self._more(self._page.messages[-1].offset, self._left)
        except AbideError:  # the client learns why when it asks for the rest
            return None
        return page if epochs.name(page.lineage) == epochs.name(self._lineage) else None

    def _has_more(self) -> bool:
        messages = self._page.messages
        return bool(messages) and self._left > 0 and messages[-1].offset < self._page.head

    def _messages(self) -> bytes:
        """Return the messages of the page as JSON after those before, and note whether some before them are missing."""
        messages = self._page.messages
        if messages:
            self._is_complete = self._is_complete and messages[0].offset == self._next
            self._next = messages[-1].offset + 1
        texts = [_message(self._epoch, message) for message in messages if message.data]
        if not texts:
            return b""
        comma, self._comma = self._comma, b","
        return comma + b",".join(texts)

    def _end(self) -> bytes:
        complete = b"true" if self._is_complete else b"false"
        page = self._page
        if not self._epoch:  # nor positions
            return b'],"epoch":null,"first":null,"last":null,"complete":%b}' % complete
        return b'],"epoch":"%b","first":%d,"last":%d,"complete":%b}' % (self._epoch, page.first, page.head, complete)


def _message(epoch: bytes, message: Message) -> bytes:
    return b'{"position":"%b:%d","offset":%d,"time":%d,"data":%b}' % (
        epoch,
        message.offset,
        message.offset,
        message.time,
        message.data,
    )
