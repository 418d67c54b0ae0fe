"""What the backends of every engine with a log share: the wait for a first session, the follower, and their health.

A subclass puts the parts of its engine together, and says how records are stored.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Awaitable
from typing import Protocol

from app.bus.backend import PATIENCE_SECONDS, Backend, BackendHealth
from app.bus.follower import Follower
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Message, Page, Position

_RETRY_SECONDS = 0.05
"""The pause after a read that was given up."""


class Reads(Protocol):
    """Reads of a log. Each waits for a log that is away, and then raises :class:`UnavailableError`."""

    async def page(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see :meth:`app.bus.backend.Backend.read`."""

    async def place(self, channel: str) -> Place:
        """Read where a channel is."""

    async def behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        """Read, for each channel, where it is and the next messages past an offset."""


class LogBackend(Backend):
    """A backend that reads its log by a follower.

    ``engine`` and ``place`` say for operators what it is connected to. ``refusal`` is what clients are told while there
    has been no session.
    """

    _reads: Reads
    _ready: asyncio.Event
    """Set from the first session on."""

    def __init__(self, engine: str, place: str, outcomes: Outcomes, refusal: str) -> None:
        self._engine = engine
        self._place = place
        self._outcomes = outcomes
        self._refusal = refusal
        self._follower = Follower(self._behind)
        self._tasks: list[asyncio.Task[None]] = []
        """What runs from :meth:`connect` to :meth:`disconnect`."""

    def __repr__(self) -> str:
        held = f"{len(self._follower)} followed, {self._follower.held} bytes held"
        return f"<{type(self).__name__} {self._place}, {held}: {self._outcomes.wrong() or 'listening'}>"

    async def disconnect(self) -> None:
        """Stop listening, and close what is open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see the contract."""
        await self._reached()
        return await self._reads.page(channel, after, limit, history)

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        return (await self._reads.place(channel)).head

    async def follow(self, channel: str) -> Position:
        """Begin at the head."""
        return await self._follower.follow(channel, self._reads.place)

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._follower.unfollow(channel)

    async def next_batch(self) -> Batch | EpochChange:
        """Hand out what was heard, or fetched because it was not heard."""
        while True:
            try:
                return await self._follower.next_batch()
            except UnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)

    def ready_batch(self) -> Batch | EpochChange | None:
        """Hand out what is at hand."""
        return self._follower.ready_batch()

    async def health(self) -> BackendHealth:
        """Say whether what is sent is stored and heard again."""
        wrong = self._outcomes.wrong()
        return BackendHealth(ok=wrong is None, detail=wrong or f"{self._engine} at {self._place}")

    @abstractmethod
    async def _close(self) -> None:
        """Close what is open, when nothing runs any more. Never raises."""

    async def _reached(self, deadline: float | None = None) -> float:
        """Wait for the first session, and return the deadline: without one, as long as a log has to come back.

        Raises :class:`UnavailableError` at the deadline.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS if deadline is None else deadline
        if not self._ready.is_set():
            await in_time(self._ready.wait(), deadline, self._outcomes, self._refusal)
        return deadline

    async def _behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        return await self._reads.behind(wanted)


async def in_time(wait: Awaitable[object], deadline: float, outcomes: Outcomes, refusal: str) -> None:
    """Wait for what needs a session. Raises :class:`UnavailableError` at the deadline; its cause says what is wrong."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            await wait
    except TimeoutError:
        raise UnavailableError(refusal) from UnavailableError(outcomes.wrong() or "no session yet")
