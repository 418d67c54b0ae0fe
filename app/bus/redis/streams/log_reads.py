"""Reads of the log: repeated while a connection is lost or a channel moves."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import structlog
from redis.exceptions import NoScriptError

from app.bus.backend import PAGE_BYTES, PATIENCE_SECONDS, Retention
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.reads.page_of import PageOf
from app.bus.reads.together import Together
from app.bus.redis.sessions.address import Server
from app.bus.redis.sessions.faults import LOST, NOT_READY, explain, is_passing
from app.bus.redis.sessions.router import Request, Router
from app.bus.redis.sessions.session import RETRY_SECONDS, Word
from app.bus.redis.streams import names
from app.bus.redis.streams.commit import head_ttl
from app.bus.redis.streams.lua import script, words
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import MAX_OFFSET, Message, Page

EMPTY = "0"
"""The lineage of a channel that nothing is known of. Each lineage ends with it, at offset 1 (store.lua)."""

_BATCH_MESSAGES = 1000
_PLACES_AT_ONCE, _PAGES_AT_ONCE = 500, 16
"""How many are read in one round trip. A page has 256 KiB, or one message."""

_log = structlog.get_logger(__name__)


class LogReads:
    """Reads over ``router``. Each method raises :class:`UnavailableError` while the servers are away."""

    def __init__(self, router: Router, outcomes: Outcomes, retention: Retention) -> None:
        self._router = router
        self._outcomes = outcomes
        self._retention = retention
        self._said = ""
        """Why the last read was given up; empty since one worked."""
        self._begun: dict[Server | None, Together[str, Place]] = {}
        self._pages: dict[Server | None, Together[PageOf, Page]] = {}
        """What waits for each primary: one that is away holds up no read of another."""
        self.secrets: dict[str, bytes] = {}
        """What seals publications (publications.py), by channel: of those whose place was read."""

    async def page(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see :meth:`app.bus.backend.Backend.read`."""
        primary = self._router.last(names.head(channel))
        if primary not in self._pages:
            self._pages[primary] = Together(self._read_pages, _PAGES_AT_ONCE, NOT_READY)
        return await self._pages[primary].ask(PageOf(channel, after, limit, history))

    async def place(self, channel: str) -> Place:
        """Read where a channel is; begin its first epoch if it has none."""
        primary = self._router.last(names.head(channel))
        if primary not in self._begun:
            self._begun[primary] = Together(self._begin, _PLACES_AT_ONCE, NOT_READY)
        return await self._begun[primary].ask(channel)

    async def places(self, channels: Sequence[str]) -> dict[str, Place]:
        """Read where channels are that are followed; begin an epoch of those that are gone.

        So followers are told of the loss with positions of the next messages.
        """
        found: dict[str, Place] = {}
        for begin in range(0, len(channels), _PLACES_AT_ONCE):
            part = channels[begin : begin + _PLACES_AT_ONCE]
            heads = map(names.head, part)
            requests = [Request(head, ("HMGET", head, "head", "lineage", "secret")) for head in heads]
            answers = await self._ask("place", requests)
            found |= {name: self._place(name, answer) for name, answer in zip(part, answers, strict=True)}
            if gone := [name for name in part if found[name].lineage == EMPTY]:
                found |= zip(gone, await self._begin(gone), strict=True)
        return found

    async def behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        """Read, for each channel, where it is and the next messages past an offset."""
        requests = [
            _read(channel, after, _BATCH_MESSAGES, MAX_OFFSET, MAX_OFFSET // 1000) for channel, after in wanted.items()
        ]
        found = {}
        for channel, answer in zip(wanted, await self._ask("read", requests), strict=True):
            head, lineage, secret, _, *rest = answer
            found[channel] = self._place(channel, (head, lineage, secret)), _messages(*rest)
        return found

    def close(self) -> None:
        """Refuse what waits."""
        for begun in self._begun.values():
            begun.close()
        for pages in self._pages.values():
            pages.close()

    async def renew(self) -> None:
        """Use other connections from now on: the servers' names may lead elsewhere."""
        await self._router.renew()

    async def keep(self, channels: Sequence[str]) -> None:
        """Keep the heads of channels that are followed, though they may be idle."""
        for begin in range(0, len(channels), _PLACES_AT_ONCE):
            part = channels[begin : begin + _PLACES_AT_ONCE]
            times = [(names.head(channel), head_ttl(self._retention(channel))) for channel in part]
            await self._ask("place", [Request(head, ("PEXPIRE", head, ttl)) for head, ttl in times])

    async def trim(self, channels: Sequence[str], grace: int) -> list[str]:
        """Delete what no history shows and is older than ``grace`` seconds; return where more is to be done later."""
        requests = []
        for channel in channels:
            history, keys = self._retention(channel), [names.head(channel), names.log(channel)]
            requests.append(Request(keys[0], words("trim", keys, [history.size, history.ttl * 1000, grace * 1000])))
        answers = await self._ask("trim", requests)
        return [channel for channel, more in zip(channels, answers, strict=True) if more]

    async def _read_pages(self, asked: Sequence[PageOf]) -> list[Page]:
        requests = [_read(one.channel, one.after, one.limit, one.history.size, one.history.ttl) for one in asked]
        return [_page(*answer) for answer in await self._ask("read", requests)]

    async def _begin(self, channels: Sequence[str]) -> list[Place]:
        requests = []
        for channel in channels:
            arguments: list[Word] = [secrets.token_hex(4), secrets.token_hex(16), head_ttl(self._retention(channel))]
            head = names.head(channel)
            requests.append(Request(head, words("place", [head], arguments)))
        answers = await self._ask("place", requests)
        return [self._place(channel, answer) for channel, answer in zip(channels, answers, strict=True)]

    def _place(self, channel: str, answer: Sequence[bytes | None]) -> Place:
        head, lineage, secret = answer
        self.secrets[channel] = secret or b""
        return Place(lineage.decode() if lineage else EMPTY, int(head or 0))

    async def _ask(self, name: str, requests: list[Request]) -> list[list[bytes]]:
        """Send the requests, and again where they may work then. ``name`` is the function that they may run."""
        try:
            with self._outcomes.under_way("read"):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while open_ := [request for request in requests if not _is_answered(request)]:
                        await self._attempt(name, open_)
        except TimeoutError:
            error = next(request.answer for request in requests if not _is_answered(request))
            raise self._failed(error or TimeoutError()) from error
        for request in requests:
            if isinstance(request.answer, BaseException):
                raise self._failed(request.answer) from request.answer
        self._outcomes.worked("read")
        self._said = ""
        return [request.answer for request in requests]

    async def _attempt(self, name: str, requests: list[Request]) -> None:
        await self._router.send(requests)
        if unloaded := [request for request in requests if isinstance(request.answer, NoScriptError)]:
            load: tuple[Word, ...] = ("SCRIPT", "LOAD", script(name).text)
            await self._router.send([Request(request.key, load) for request in unloaded])
        elif failed := [request for request in requests if not _is_answered(request)]:
            self._outcomes.hint("read", explain(failed[0].answer))
            await asyncio.sleep(RETRY_SECONDS)

    def _failed(self, error: BaseException) -> UnavailableError:
        reason = explain(error)
        self._outcomes.failed("read", reason)
        if reason != self._said:
            _log.error("read_given_up", reason=reason)
        self._said = reason
        return UnavailableError(NOT_READY)


def _is_answered(request: Request) -> bool:
    """Whether another attempt is of no use."""
    answer = request.answer
    again = isinstance(answer, (UnavailableError, *LOST)) or (isinstance(answer, BaseException) and is_passing(answer))
    return answer is not None and not again


def _read(channel: str, after: int, limit: int, size: int, ttl: int) -> Request:
    keys = [names.head(channel), names.log(channel)]
    return Request(keys[0], words("read", keys, [after, limit, size, ttl * 1000, PAGE_BYTES]))


def _page(head: bytes, lineage: bytes, _: bytes, first: bytes, *found: bytes) -> Page:
    return Page(int(first), int(head), _messages(*found), lineage.decode())


def _messages(offset: bytes, times: bytes, bodies: bytes) -> tuple[Message, ...]:
    if not times:
        return ()
    found = zip(times.split(b" "), bodies.split(b"\x1e"), strict=True)
    return tuple([Message(place, int(time), data) for place, (time, data) in enumerate(found, int(offset))])
