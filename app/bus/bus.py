"""The bus: from publish to every hub, over ``broadcaster``.

``broadcaster`` gives each process one subscription per channel and fans its events out to
them; the log and the wake-ups are the backend's. Four of its habits are fenced in here (as
of 0.3.1): concurrent first subscriptions of a channel race, so they are taken one at a time;
an error in its backend kills its listener for good, so none gets out; its queues have no
bound, so the listener pauses after a few batches until they are empty; and an error while
subscribing is masked by a ``KeyError``, so the backend is asked before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, cast

import structlog
from broadcaster import Broadcast, BroadcastBackend, Event

from app.bus.backend import Backend, Health
from app.bus.commit import GroupCommit
from app.core.channel import History
from app.core.message import Batch, Page, Record
from app.core.ports import UNMETERED, Meter, Outcome, Sink

if TYPE_CHECKING:
    from broadcaster._base import Subscriber  # not exported

_BATCHES_PER_TURN = 32
"""Batches handed over before the readers get their turn: the bound of broadcaster's queues."""

_RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class _Events(BroadcastBackend):
    """Shows a backend's batches to ``Broadcast`` as events."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._handed_over = 0

    async def connect(self) -> None:
        """Nothing to do: the bus owns the backend's connection."""

    async def disconnect(self) -> None:
        """Nothing to do, as above."""

    async def subscribe(self, group: str) -> None:
        """Nothing to do: the bus has asked the backend already, where errors can be told."""

    async def unsubscribe(self, group: str) -> None:
        """Nothing to do, as above."""

    async def next_published(self) -> Event:
        self._handed_over += 1
        if self._handed_over % _BATCHES_PER_TURN == 0:
            await asyncio.sleep(0)
        while True:
            try:
                batch = await self._backend.next_batch()
            except Exception:  # noqa: BLE001 — one that got out would end broadcaster's listener for good
                _log.exception("listener_failed", retry_seconds=_RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return Event(batch.channel, cast("str", batch))


class Bus:
    """Publishes through a group commit, and hands what is appended to one sink per channel.

    Implements :class:`~app.core.ports.Publisher` and :class:`~app.core.ports.Source`.
    Valid between :meth:`running`'s begin and end.
    """

    def __init__(self, backend: Backend, meter: Meter = UNMETERED) -> None:
        self._backend = backend
        self._meter = meter
        self._commit = GroupCommit(backend.append, meter)
        self._broadcast = Broadcast(backend=_Events(backend))
        self._followed: dict[str, contextlib.AsyncExitStack] = {}

    def __repr__(self) -> str:
        return f"<Bus over {self._backend!r}, {self._commit!r}>"

    @property
    def epoch(self) -> str:
        """The id of this life of the log; valid once something was read or followed."""
        return self._backend.epoch

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect; at the end finish what waits to be appended, then let go."""
        await self._backend.connect()
        committer = asyncio.create_task(self._commit.run(), name="group-commit")
        try:
            async with self._broadcast:
                yield
                self._commit.close()
                await committer
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
        async with contextlib.AsyncExitStack() as stack:
            # Before the backend begins, so that no event finds nobody there.
            subscriber = await stack.enter_async_context(self._broadcast.subscribe(channel))
            stack.push_async_callback(self._backend.unfollow, channel)
            sink.start(await self._backend.follow(channel))
            pump = asyncio.create_task(_pump(subscriber, sink, self._meter), name=f"pump {channel}")
            stack.push_async_callback(_cancel, pump)
            self._followed[channel] = stack.pop_all()

    async def unfollow(self, channel: str) -> None:
        """Hand over no more of the channel."""
        stack = self._followed.pop(channel, None)
        if stack is not None:
            await stack.aclose()

    async def read(self, channel: str, after: int, limit: int, history: History) -> Page:
        """Read the log past ``after``; see :meth:`~app.bus.backend.Backend.read`."""
        return await self._backend.read(channel, after, limit, history)

    async def health(self) -> Health:
        """How the backend is."""
        return await self._backend.health()


async def _pump(subscriber: Subscriber, sink: Sink, meter: Meter) -> None:
    while True:
        batch = cast("Batch", (await subscriber.get()).message)
        try:
            sink.deliver(batch)
        except Exception:  # noqa: BLE001 — a bug ends the subscriptions of one channel, and never its deliveries
            _log.exception("delivery_failed", channel=batch.channel, offset=batch.first)
            meter.failed("delivery")
            sink.failed()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
