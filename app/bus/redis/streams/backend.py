"""The streams backend put together: for each primary a connection that commits, one that hears, and two for reads."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

from app.bus.backend import Backend, BackendHealth, Retention
from app.bus.follower import Follower
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.redis.sessions.address import parse
from app.bus.redis.sessions.faults import WORDING
from app.bus.redis.sessions.pool import Pool
from app.bus.redis.sessions.primaries import Primaries
from app.bus.redis.sessions.router import Router
from app.bus.redis.sessions.session import RETRY_SECONDS
from app.bus.redis.sessions.subscriber import Subscriber
from app.bus.redis.streams import names
from app.bus.redis.streams.commit import LEAST_SECONDS, Style
from app.bus.redis.streams.listener import Listener
from app.bus.redis.streams.log_reads import PATIENCE_SECONDS, LogReads
from app.bus.redis.streams.promises import Promises
from app.bus.redis.streams.retention import Trimmer
from app.bus.redis.streams.store import NOT_READY, Store
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Message, Page, Position, Record
from app.core.ports import UNMETERED, Meter, Outcome

_READERS = 2


class StreamsBackend(Backend):
    """The log in streams of Redis, of a cluster, or of the primary that sentinels know.

    A commit is stored when the primary has answered, or with ``min_replicas`` when as many replicas have it, too.
    ``logs`` is whether it logs that it hears or does not; another backend may say so of the same server.
    """

    def __init__(
        self, url: str, *, retention: Retention, min_replicas: int = 0, meter: Meter = UNMETERED, logs: bool = True
    ) -> None:
        self._address = parse(url)
        primaries = Primaries(self._address)
        self._work, self._read = Pool(self._address, "abide-work"), Pool(self._address, "abide-read", _READERS)
        self._outcomes = Outcomes("not connected yet", WORDING)
        style = Style(secrets.token_hex(4), self._address.database, primaries.is_cluster, min_replicas, retention)
        self._store = Store(Router(primaries, self._work), self._outcomes, style)
        self._reads = LogReads(Router(primaries, self._read), self._outcomes, retention)
        self._follower = Follower(self._behind)
        listener = Listener(self._follower, self._reads, Promises(primaries, self._read, min_replicas), meter)
        self._subscriber = Subscriber(self._address, primaries, self._store.beat, listener, self._outcomes, logs=logs)
        self._trimmer = Trimmer(self._reads, lambda: list(self._follower.places()))
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = self._outcomes.wrong() or "listening"
        return (
            f"<StreamsBackend {self._address.place}, {len(self._follower)} followed, {self._follower.held} bytes held: "
            f"{state}>"
        )

    async def connect(self) -> None:
        """Begin to connect, and return at once: a server that is away at start is waited for."""
        self._tasks = [
            asyncio.create_task(self._subscriber.run(), name="redis-subscriber"),
            asyncio.create_task(self._trimmer.run(), name="redis-retention"),
        ]

    async def disconnect(self) -> None:
        """Stop listening and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._work.close(), self._read.close())

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        deadline = time.monotonic() + PATIENCE_SECONDS if deadline is None else deadline
        await self._reached(deadline)
        commit = await self._store.store(records, deadline)
        self._trimmer.note({record.channel for record in records})
        return commit.result()

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see the contract."""
        await self._reached(time.monotonic() + PATIENCE_SECONDS)
        return await self._reads.page(channel, after, limit, history)

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        return (await self._reads.place(channel)).head

    async def follow(self, channel: str) -> Position:
        """Subscribe to the channel's publications, and begin at its head."""
        topic = names.topic(channel, self._address.database)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._subscriber.add(topic)
        except TimeoutError:
            self._subscriber.remove(topic)
            raise UnavailableError(NOT_READY) from UnavailableError(self._outcomes.wrong() or "no session yet")
        try:
            return await self._follower.follow(channel, self._reads.place)
        except BaseException:
            await self.unfollow(channel)
            raise

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._subscriber.remove(names.topic(channel, self._address.database))
        self._follower.unfollow(channel)
        self._reads.secrets.pop(channel, None)

    async def next_batch(self) -> Batch | EpochChange:
        """Hand out what was heard, or fetched because it was not heard."""
        while True:
            try:
                return await self._follower.next_batch()
            except UnavailableError:
                await asyncio.sleep(RETRY_SECONDS)

    async def trim(self, grace: int = LEAST_SECONDS) -> None:
        """Delete what no history shows any more and is older than ``grace`` seconds, of what was stored lately."""
        await self._trimmer.trim(grace)

    async def health(self) -> BackendHealth:
        """Say whether what is sent is stored and heard again."""
        wrong = self._outcomes.wrong()
        return BackendHealth(ok=wrong is None, detail=wrong or f"redis at {self._address.place}")

    async def _reached(self, deadline: float) -> None:
        """Wait until everything was heard once; raise :class:`UnavailableError` at the deadline."""
        if self._subscriber.ready.is_set():
            return
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._subscriber.ready.wait()
        except TimeoutError:
            raise UnavailableError(NOT_READY) from UnavailableError(self._outcomes.wrong() or "no session yet")

    async def _behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        return await self._reads.behind(wanted)
