"""The bus: from publish to every hub, over ``broadcaster``.

What broadcaster is for: it runs the one task that listens to the backend, and the queue from there to this process's
one subscription. The log and the wake-ups are the backend's, and the bus picks the sink of each batch: a subscription
of broadcaster's for each channel would be a queue, a task and a generator, 6 KiB.

What broadcaster costs: one event object, one queue entry and one task switch for all batches that are at hand, up to
thirty-two. Three of its habits (as of 0.3.1) need a fence:

* An error in its backend ends its listener for good. So :class:`_Events` lets none out.
* Its queues have no bound. So the listener pauses after a few batches until the queue is empty.
* Nobody is told when the reader of a queue fails. So :meth:`Bus._pump` survives every error, and logs it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import structlog
from broadcaster import Broadcast, BroadcastBackend, Event

from app.bus.backend import Backend, BackendHealth
from app.bus.group_commit import GroupCommit
from app.core.channel import HistoryWindow
from app.core.message import Batch, EpochChange, Loss, News, Page, Position, Record
from app.core.ports import UNMETERED, Meter, Sink, Submitted

if TYPE_CHECKING:
    from broadcaster._base import Subscriber  # not exported

_BATCHES_PER_TURN = 32
"""Batches handed over before the readers get their turn: the bound of broadcaster's queues."""

_RETRY_SECONDS = 1.0

_GROUP = "abide"
"""The one channel that broadcaster knows."""

_log = structlog.get_logger(__name__)


class _Followed:
    """One followed channel: its sink, and the batches that came before the sink was started."""

    __slots__ = ("_early", "_meter", "_sink")

    def __init__(self, sink: Sink, meter: Meter) -> None:
        self._sink = sink
        self._meter = meter
        self._early: list[News] | None = []
        """None once the sink is started."""

    def start(self, position: Position) -> None:
        """Start the sink after ``position``, and hand it what has come since."""
        self._sink.start(position)
        early, self._early = self._early, None
        for news in early or ():
            self._hand(news)

    def deliver(self, news: News) -> None:
        """Hand the sink what comes next. Never raises: a bug ends this channel's subscriptions, nothing else."""
        if self._early is not None:
            self._early.append(news)
            return
        try:
            if type(news) is Batch:
                self._sink.deliver(news)
            else:
                self._hand(news)
        except Exception:  # noqa: BLE001 — see above
            _log.exception("delivery_failed", channel=news.channel)
            self.fail(news.channel)

    def fail(self, channel: str) -> None:
        """Count a failed delivery and end the channel's subscriptions, which then resume. Never raises."""
        for step in (partial(self._meter.failed, "delivery"), self._sink.failed):
            try:
                step()
            except Exception:  # noqa: BLE001 — the other step is still to come, and so are the next messages
                _log.exception("delivery_failed", channel=channel)

    def _hand(self, news: News) -> None:
        if isinstance(news, EpochChange):
            self._sink.change_epoch(news)
        elif isinstance(news, Loss):
            self._sink.lose()
        else:
            self._sink.deliver(news)


_Delivery = tuple[_Followed, News]


class _Events(BroadcastBackend):
    """Shows a backend's batches to ``Broadcast`` as events, each with the sink that follows its channel by then."""

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
        """Return the next batches of followed channels. Raises nothing, and is cancelled only by ``Broadcast``."""
        if self._handed_over >= _BATCHES_PER_TURN:
            self._handed_over = 0
            await asyncio.sleep(0)
        while True:
            deliveries: list[_Delivery] = []
            try:
                news: News | None = await self._backend.next_batch()
                while news is not None:
                    followed = self._followed.get(news.channel)
                    if followed is not None:
                        deliveries.append((followed, news))
                    news = self._backend.ready_batch() if len(deliveries) < _BATCHES_PER_TURN else None
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise
                _log.exception("listener_failed", retry_seconds=_RETRY_SECONDS)
                if not deliveries:  # else they are handed over first
                    await asyncio.sleep(_RETRY_SECONDS)
            if deliveries:
                self._handed_over += len(deliveries)
                return Event(_GROUP, cast("str", deliveries))


class Bus:
    """Publishes through a group commit, and hands what is appended to one sink per channel.

    Implements :class:`~app.core.ports.Publisher` and :class:`~app.core.ports.Source`.
    Valid between :meth:`running`'s begin and end.
    """

    def __init__(self, backend: Backend, meter: Meter = UNMETERED) -> None:
        self._backend = backend
        self._meter = meter
        self._commit = GroupCommit(backend.append, meter, answers_first=backend.answers_first)
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

    def publish(self, records: Sequence[Record]) -> Submitted:
        """Append the records in order; one outcome for each is known when they are stored or refused."""
        return self._commit.publish(records)

    async def follow(self, channel: str, sink: Sink) -> None:
        """Hand ``sink`` what is appended from now on. One sink per channel at a time."""
        # Before the backend begins, so that no batch finds nobody there.
        followed = self._followed[channel] = _Followed(sink, self._meter)
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

    async def health(self) -> BackendHealth:
        """Say whether the backend can be used now."""
        return await self._backend.health()

    async def _pump(self, subscriber: Subscriber) -> None:
        """Hand each batch to its channel's sink until the bus ends, whatever fails."""
        while True:
            try:
                for followed, news in cast("list[_Delivery]", (await subscriber.get()).message):
                    if self._followed.get(news.channel) is followed:  # else the batch is older than what follows it now
                        followed.deliver(news)
            except Exception:  # noqa: BLE001 — it would go unheard, and so would every later message
                _log.exception("pump_failed", retry_seconds=_RETRY_SECONDS)
                self._fail_all()
                await asyncio.sleep(_RETRY_SECONDS)

    def _fail_all(self) -> None:
        """End every subscription, since a batch of some channel is lost here: each resumes from the log."""
        for channel, followed in list(self._followed.items()):
            followed.fail(channel)


def _is_cancelled() -> bool:
    """Whether this task itself was cancelled, and not something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
