"""The pub/sub backend put together: a connection that publishes, one that hears, and the log of internal channels.

What is taken back, and tickets, must survive a restart and reach workers that were away. So the channels whose names
begin with ``$`` are kept in streams of the same Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from app.bus.backend import PATIENCE_SECONDS, Backend, BackendHealth, Retention
from app.bus.log_backend import in_time
from app.bus.outcomes import Outcomes
from app.bus.redis.pubsub.fence import Fence
from app.bus.redis.pubsub.hearing import Hearing
from app.bus.redis.pubsub.publications import topic_of
from app.bus.redis.pubsub.store import Store
from app.bus.redis.sessions.address import parse
from app.bus.redis.sessions.faults import NOT_READY, WORDING
from app.bus.redis.sessions.pool import Pool
from app.bus.redis.sessions.primaries import Primaries
from app.bus.redis.sessions.router import Router
from app.bus.redis.sessions.subscriber import Subscriber
from app.bus.redis.streams import StreamsBackend
from app.core.channel import ACCESS, HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, News, Page, Position, Record
from app.core.ports import UNMETERED, Meter, Outcome

_OWN = "$"
"""How the names of the server's own channels begin."""


class PubSubBackend(Backend):
    """Live messages through Redis, which keeps none; only the server's own channels are a log."""

    def __init__(self, url: str, *, retention: Retention, meter: Meter = UNMETERED) -> None:
        self._address = parse(url)
        self._log = StreamsBackend(url, retention=retention, logs=False)
        self._outcomes = Outcomes("not connected yet", WORDING)
        primaries = Primaries(self._address)
        self._work = Pool(self._address, "abide-publish")
        self._store = Store(Router(primaries, self._work), self._outcomes, self._address.database)
        self._news = asyncio.Event()
        self._fence = Fence(self._topic_of(f"{_OWN}fence"), lambda: self._log.head(ACCESS), self._news.set)
        self._hearing = Hearing(self._fence, self._news.set, meter)
        self._subscriber = Subscriber(self._address, primaries, self._store.beat, self._hearing, self._outcomes)
        self._listening: list[asyncio.Task[None]] = []
        self._kept: asyncio.Task[Batch | EpochChange] | None = None
        """Waits for what the log hands out next."""

    def __repr__(self) -> str:
        state = self._outcomes.wrong() or "listening"
        return (
            f"<PubSubBackend {self._address.place}, {len(self._hearing)} followed, {self._hearing.held} bytes held: "
            f"{state}>"
        )

    @property
    def held(self) -> int:
        """Bytes of data that wait to be handed out."""
        return self._hearing.held

    async def connect(self) -> None:
        """Begin to connect, and return at once: a server that is away at start is waited for."""
        await self._log.connect()
        self._subscriber.want(self._fence.topic)
        self._listening = [asyncio.create_task(self._subscriber.run(), name="redis-pubsub")]

    async def disconnect(self) -> None:
        """Stop listening and close the connections."""
        tasks = [*self._listening, *([] if self._kept is None else [self._kept])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._subscriber.close()
        self._fence.close()
        await asyncio.gather(self._work.close(), self._log.disconnect())

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Publish the records, or store those of the server's own channels; see the contract."""
        deadline = time.monotonic() + PATIENCE_SECONDS if deadline is None else deadline
        if not self._subscriber.ready.is_set():
            await in_time(self._subscriber.ready.wait(), deadline, self._outcomes, NOT_READY)
        if not any(record.channel.startswith(_OWN) for record in records):
            return await self._publish(records, deadline)
        own = [record for record in records if record.channel.startswith(_OWN)]
        others = [record for record in records if not record.channel.startswith(_OWN)]
        outcomes = {True: iter(await self._keep(own, deadline)), False: iter(await self._publish(others, deadline))}
        return [next(outcomes[record.channel.startswith(_OWN)]) for record in records]

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Return an empty page, or what is kept of a channel of the server's own."""
        if channel.startswith(_OWN):
            return await self._log.read(channel, after, limit, history)
        head = self._hearing.head(self._topic_of(channel))
        return Page(head + 1, head, (), "")

    async def head(self, channel: str) -> int:
        """Return the newest offset; of a live channel, that of what was heard."""
        if channel.startswith(_OWN):
            return await self._log.head(channel)
        return self._hearing.head(self._topic_of(channel))

    async def follow(self, channel: str) -> Position:
        """Subscribe to the channel's topic."""
        if channel.startswith(_OWN):
            position = await self._log.follow(channel)
            if channel == ACCESS:
                self._fence.move(position.offset)
            return position
        topic = self._topic_of(channel)
        try:
            await self._subscriber.add(topic)
        except BaseException:
            self._subscriber.remove(topic)
            raise
        return self._hearing.begin(topic, channel)

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        if channel.startswith(_OWN):
            if channel == ACCESS:
                self._fence.move(None)
            await self._log.unfollow(channel)
            return
        topic = self._topic_of(channel)
        self._subscriber.remove(topic)
        self._hearing.end(topic)

    async def next_batch(self) -> News:
        """Hand out what the log of the server's own channels has, and then what was heard."""
        while True:
            self._news.clear()
            if (kept := self._next_kept()) is not None:
                return kept
            if (news := self._hearing.take()) is not None:
                return news
            await self._news.wait()

    async def health(self) -> BackendHealth:
        """Say whether what is sent is published and heard again."""
        wrong = self._outcomes.wrong()
        log = await self._log.health()
        return BackendHealth(ok=wrong is None and log.ok, detail=wrong or log.detail)

    def _topic_of(self, channel: str) -> str:
        return topic_of(channel, self._address.database)

    async def _publish(self, records: Sequence[Record], deadline: float) -> list[Outcome]:
        return await self._store.publish(records, deadline) if records else []

    async def _keep(self, records: Sequence[Record], deadline: float) -> list[Outcome]:
        outcomes = await self._log.append(records, deadline)
        if any(record.channel == ACCESS for record in records):
            with contextlib.suppress(UnavailableError):  # who does not hear the fence has lost a connection
                await self._store.beat(self._fence.topic, "")
        return outcomes

    def _next_kept(self) -> Batch | EpochChange | None:
        """Return what the log hands out now; None if that is nothing."""
        if self._kept is None:
            self._kept = asyncio.create_task(self._log.next_batch(), name="redis-own-channels")
            self._kept.add_done_callback(lambda _: self._news.set())
        if not self._kept.done():
            return None
        task, self._kept = self._kept, None
        news = task.result()
        if news.channel == ACCESS:
            self._fence.move(news.last if isinstance(news, Batch) else news.offset)
        return news
