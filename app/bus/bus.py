"""The bus: from publish to every hub, over ``broadcaster``.

``broadcaster`` hands what its backend publishes to this process's one subscription, by a listener and a queue; the
log and the wake-ups are the backend's, and which channel's sink gets a batch is decided here: a subscription of
broadcaster's for each channel would be a queue, a task and a generator, 6 KiB. Two of its habits are fenced in (as of
0.3.1): an error in its backend kills its listener for good, so none gets out; and its queues have no bound, so the
listener pauses after a few batches until they are empty.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import structlog
from broadcaster import Broadcast, BroadcastBackend, Event

from app.bus.backend import Backend, Health
from app.bus.commit import GroupCommit
from app.core.channel import HistoryWindow
from app.core.message import Batch, EpochChange, Page, Position, Record
from app.core.ports import UNMETERED, Meter, Outcome, Sink

if TYPE_CHECKING:
    from broadcaster._base import Subscriber  # not exported

_BATCHES_PER_TURN = 32
"""Batches handed over before the readers get their turn: the bound of broadcaster's queues."""

_RETRY_SECONDS = 1.0

_GROUP = "abide"
"""What broadcaster takes for the one channel there is."""

_log = structlog.get_logger(__name__)


class _Followed:
    """One channel that is followed: its sink, and what comes before that can be started."""

    __slots__ = ("_early", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._early: list[Batch | EpochChange] | None = []
        """None once the sink is started."""

    def start(self, position: Position) -> None:
        """Start the sink after ``position``, and hand it what has come since."""
        self._sink.start(position)
        early, self._early = self._early, None
        for news in early or ():
            self._hand(news)

    def deliver(self, news: Batch | EpochChange, meter: Meter) -> None:
        """Hand the sink what is new."""
        if self._early is not None:
            self._early.append(news)
            return
        try:
            self._hand(news)
        except Exception:  # noqa: BLE001 — a bug ends the subscriptions of one channel, and never its deliveries
            _log.exception("delivery_failed", channel=news.channel)
            meter.failed("delivery")
            self._sink.failed()

    def _hand(self, news: Batch | EpochChange) -> None:
        if isinstance(news, EpochChange):
            self._sink.change_epoch(news)
        else:
            self._sink.deliver(news)


_Delivery = tuple[_Followed, Batch | EpochChange]


class _Events(BroadcastBackend):
    """Shows a backend's batches to ``Broadcast`` as events, each with who follows its channel when it comes."""

    def __init__(self, backend: Backend, followed: Mapping[str, _Followed]) -> None:
        self._backend = backend
        self._followed = followed
        self._handed_over = 0

    async def connect(self) -> None:
        """Nothing to do: the bus owns the backend's connection."""

    async def disconnect(self) -> None:
        """Nothing to do, as above."""

    async def subscribe(self, group: str) -> None:
        """Nothing to do: the bus asks the backend for each channel."""

    async def unsubscribe(self, group: str) -> None:
        """Nothing to do, as above."""

    async def next_published(self) -> Event:
        self._handed_over += 1
        if self._handed_over % _BATCHES_PER_TURN == 0:
            await asyncio.sleep(0)
        while True:
            try:
                news = await self._backend.next_batch()
            except Exception:  # noqa: BLE001 — one that got out would end broadcaster's listener for good
                _log.exception("listener_failed", retry_seconds=_RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                if followed := self._followed.get(news.channel):
                    return Event(_GROUP, cast("str", (followed, news)))


class Bus:
    """Publishes through a group commit, and hands what is appended to one sink per channel.

    Implements :class:`~app.core.ports.Publisher` and :class:`~app.core.ports.Source`.
    Valid between :meth:`running`'s begin and end.
    """

    def __init__(self, backend: Backend, meter: Meter = UNMETERED) -> None:
        self._backend = backend
        self._meter = meter
        self._commit = GroupCommit(backend.append, meter)
        self._followed: dict[str, _Followed] = {}
        self._broadcast = Broadcast(backend=_Events(backend, self._followed))

    def __repr__(self) -> str:
        return f"<Bus over {self._backend!r}, {self._commit!r}>"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect; at the end finish what waits to be appended, then let go."""
        await self._backend.connect()
        committer = asyncio.create_task(self._commit.run(), name="group-commit")
        try:
            async with self._broadcast, self._broadcast.subscribe(_GROUP) as subscriber:
                pump = asyncio.create_task(self._pump(subscriber), name="pump")
                try:
                    yield
                    self._commit.close()
                    await committer
                finally:
                    pump.cancel()
        finally:
            committer.cancel()
            for channel in list(self._followed):
                await self.unfollow(channel)
            await self._backend.disconnect()

    def publish(self, records: Sequence[Record]) -> asyncio.Future[list[Outcome]]:
        """Append the records in order; return one outcome for each when they are stored."""
        return self._commit.publish(records)

    async def follow(self, channel: str, sink: Sink) -> None:
        """Hand ``sink`` what is appended from now on. One sink per channel at a time."""
        # Before the backend begins, so that no batch finds nobody there.
        followed = self._followed[channel] = _Followed(sink)
        try:
            followed.start(await self._backend.follow(channel))
        except BaseException:
            await self.unfollow(channel)
            raise

    async def unfollow(self, channel: str) -> None:
        """Hand over no more of the channel."""
        if self._followed.pop(channel, None):
            await self._backend.unfollow(channel)

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read the log past ``after``; see :meth:`~app.bus.backend.Backend.read`."""
        return await self._backend.read(channel, after, limit, history)

    async def health(self) -> Health:
        """How the backend is."""
        return await self._backend.health()

    async def _pump(self, subscriber: Subscriber) -> None:
        while True:
            followed, news = cast("_Delivery", (await subscriber.get()).message)
            if self._followed.get(news.channel) is followed:  # who follows now may have begun after it
                followed.deliver(news, self._meter)
