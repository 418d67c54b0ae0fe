"""Reads of channels: repeated while a broker is away, or where the topic may have become another one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

from app.bus.backend import PATIENCE_SECONDS
from app.bus.kafka.brokers import broker_errors
from app.bus.kafka.brokers.cluster import LOST
from app.bus.kafka.log import Log
from app.bus.kafka.topics import Topic, Topics
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Message, Page

_RETRY_SECONDS = 0.1

_AT_ONCE = 64
"""How many reads of subscribers are under way. What they ask for at the same time goes into the same requests."""

_Result = TypeVar("_Result")


class LogReads:
    """Reads of ``log``. Each method raises :class:`UnavailableError` while brokers are away."""

    def __init__(self, log: Log, topics: Topics, outcomes: Outcomes) -> None:
        self._log = log
        self._topics = topics
        self._outcomes = outcomes
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._gave_up = float("-inf")
        """When a read was given up, if none has worked since."""

    async def page(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see :meth:`app.bus.backend.Backend.read`."""
        return await self._in_turn(channel, lambda topic: self._log.page(topic, after, limit, history))

    async def place(self, channel: str) -> Place:
        """Read where a channel is."""
        return await self._in_turn(channel, self._log.place)

    async def behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        """Read, for each channel, where it is and the next messages past an offset."""
        found = {}
        for channel, after in wanted.items():
            found[channel] = await self._with_topic(channel, partial(self._log.next, after=after))
        return found

    async def _in_turn(self, channel: str, read: Callable[[Topic | None], Awaitable[_Result]]) -> _Result:
        """Read in turn: the time that brokers have to come back counts from there.

        Brokers that another read has found away since are not waited for again.
        """
        asked = time.monotonic()
        async with self._turns:
            if self._gave_up > asked and time.monotonic() - asked > PATIENCE_SECONDS:
                raise UnavailableError(broker_errors.NOT_READY)
            return await self._with_topic(channel, read)

    async def _with_topic(self, channel: str, read: Callable[[Topic | None], Awaitable[_Result]]) -> _Result:
        deadline = time.monotonic() + PATIENCE_SECONDS
        last: BaseException | None = None
        with refusing(self._outcomes), self._outcomes.under_way("read"):
            while time.monotonic() < deadline:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        (topic,) = (await self._topics.find([channel])).values()
                        if isinstance(topic, UnavailableError):
                            raise topic
                        found = await read(topic)
                except (UnavailableError, *LOST) as error:
                    if isinstance(error, UnavailableError) and error.__cause__ is None:
                        raise
                    last = error.__cause__ if isinstance(error, UnavailableError) else last or error
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    if topic is None or not self._topics.is_stale(topic):
                        self._outcomes.worked("read")
                        self._gave_up = float("-inf")
                        return found
            self._gave_up = time.monotonic()
            raise last or TimeoutError


@contextlib.contextmanager
def refusing(outcomes: Outcomes) -> Iterator[None]:
    """Turn what goes wrong inside into what clients are told."""
    try:
        yield
    except LOST as error:
        outcomes.failed("read", broker_errors.explain(error), certain=False)
        raise UnavailableError(broker_errors.NOT_READY) from error
