"""``GET /{channel}/history``: the log as one JSON answer, and long-polling for who can do nothing else."""

from __future__ import annotations

import asyncio
import re

from fastapi import Response
from starlette.datastructures import QueryParams
from starlette.types import Scope

from app.core import frames
from app.core.channel import Channel, Identity
from app.core.errors import AbideError, MalformedError
from app.core.hub import Hub
from app.core.message import Message, Page
from app.core.ports import Source, Writer
from app.core.resume import Begin, Gap, Start, begin
from app.core.subscription import Subscription
from app.web.drain import lasting

MAX_LIMIT = 1000
MAX_WAIT = 60
DEFAULT_LIMIT = 100

_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)


class History:
    """Reads the log of channels for whoever may subscribe to them."""

    def __init__(self, hub: Hub, source: Source) -> None:
        self._hub = hub
        self._source = source

    async def answer(
        self, name: str, channel: Channel, identity: Identity, query: QueryParams, scope: Scope
    ) -> Response:
        """Answer one request; raise why it cannot be.

        With ``wait`` and nothing to answer yet, wait so many seconds at most for a message.
        """
        channel.check_subscribe(identity)
        start = Start.parse(query.get("since", "earliest"), None)
        limit = _number(query, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        wait = _number(query, "wait", 0, MAX_WAIT)
        page, where = await self._read(name, channel, start, limit)
        if not page.messages and wait:
            waiter = _Waiter(wait)
            with lasting(scope, waiter.stop):
                page, where = await self._poll(name, channel, identity, start, limit, waiter)
        return _response(page, where, self._source.epoch)

    async def _read(self, name: str, channel: Channel, start: Start, limit: int) -> tuple[Page, Begin]:
        if start.earliest:  # before the first: whatever is held comes
            page = await self._source.read(name, 0, limit, channel.history)
            return page, begin(start, self._source.epoch, page.first, page.head)
        ends = await self._source.read(name, 0, 0, channel.history)
        where = begin(start, self._source.epoch, ends.first, ends.head)
        return await self._source.read(name, where.cursor, limit, channel.history), where

    async def _poll(  # noqa: PLR0913, PLR0917 — a question, and how long it may take
        self, name: str, channel: Channel, identity: Identity, start: Start, limit: int, waiter: _Waiter
    ) -> tuple[Page, Begin]:
        """Read again when there is something, or time is up."""
        subscription, _ = await self._hub.subscribe(name, identity, frames.PLAIN_RECORDS)
        self._hub.meter.connected("poll")
        try:
            subscription.attach(waiter, waiter)
            page, where = await self._read(name, channel, start, limit)  # it may have come in between
            if not page.messages and await waiter.news():
                page, where = await self._read(name, channel, start, limit)
        finally:
            self._hub.meter.disconnected("poll")
            self._hub.unsubscribe(subscription)
        return page, where


class _Waiter(Writer):
    """A writer that only notices that there is something. A subscriber, too."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._news = asyncio.Event()

    async def news(self) -> bool:
        """Return whether something came, or ended it, within its seconds."""
        try:
            await asyncio.wait_for(self._news.wait(), self._seconds)
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Let :meth:`news` return."""
        self._news.set()

    def write(self, data: bytes) -> None:  # noqa: ARG002 — as for the four below, that it was called is enough
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
        self._news.set()


def _number(query: QueryParams, name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not _NUMBER.fullmatch(text) or int(text) > most:
        msg = f"{name!r} must be a whole number from 0 to {most}, not {text[:40]!r}"
        raise MalformedError(msg)
    return int(text)


def _response(page: Page, where: Begin, epoch: str) -> Response:
    complete = b"true" if where.gap is None and _reaches(page, where) else b"false"
    messages = b",".join(_message(epoch, message) for message in page.messages)
    content = b'{"messages":[%b],"epoch":"%b","first":%d,"last":%d,"complete":%b}' % (
        messages,
        epoch.encode(),
        page.first,
        page.head,
        complete,
    )
    return Response(content, media_type="application/json", headers={"cache-control": "no-store"})


def _reaches(page: Page, where: Begin) -> bool:
    """Whether nothing between where it begins and the first message was lost between two reads."""
    return not page.messages or page.messages[0].offset == where.cursor + 1


def _message(epoch: str, message: Message) -> bytes:
    return b'{"position":"%b:%d","offset":%d,"time":%d,"data":%b}' % (
        epoch.encode(),
        message.offset,
        message.offset,
        message.time,
        message.data,
    )
