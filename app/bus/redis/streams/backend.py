"""The streams backend put together: for each primary a connection that commits, one that hears, and two for reads."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from app.bus.backend import Retention
from app.bus.log_backend import LogBackend
from app.bus.outcomes import Outcomes
from app.bus.redis.sessions.address import parse
from app.bus.redis.sessions.faults import NOT_READY, WORDING
from app.bus.redis.sessions.pool import Pool
from app.bus.redis.sessions.primaries import Primaries
from app.bus.redis.sessions.router import Router
from app.bus.redis.sessions.subscriber import Subscriber
from app.bus.redis.streams import names
from app.bus.redis.streams.commit import LEAST_SECONDS, Style
from app.bus.redis.streams.listener import Listener
from app.bus.redis.streams.log_reads import LogReads
from app.bus.redis.streams.promises import Promises
from app.bus.redis.streams.retention import Trimmer
from app.bus.redis.streams.store import Store
from app.core.message import Position, Record
from app.core.ports import UNMETERED, Meter, Outcome

_READERS = 2


class StreamsBackend(LogBackend):
    """The log in streams of Redis, of a cluster, or of the primary that sentinels know.

    A commit is stored when the primary has answered, or with ``min_replicas`` when as many replicas have it, too.
    ``logs`` is whether it logs that it hears or does not; another backend may say so of the same server.
    """

    _reads: LogReads

    def __init__(
        self, url: str, *, retention: Retention, min_replicas: int = 0, meter: Meter = UNMETERED, logs: bool = True
    ) -> None:
        self._address = parse(url)
        primaries = Primaries(self._address)
        self._work, self._read = Pool(self._address, "abide-work"), Pool(self._address, "abide-read", _READERS)
        super().__init__("redis", self._address.place, Outcomes("not connected yet", WORDING), NOT_READY)
        style = Style(secrets.token_hex(4), self._address.database, primaries.is_cluster, min_replicas, retention)
        self._store = Store(Router(primaries, self._work), self._outcomes, style)
        self._reads = LogReads(Router(primaries, self._read), self._outcomes, retention)
        listener = Listener(self._follower, self._reads, Promises(primaries, self._read, min_replicas), meter)
        self._subscriber = Subscriber(self._address, primaries, self._store.beat, listener, self._outcomes, logs=logs)
        self._trimmer = Trimmer(self._reads, lambda: list(self._follower.places()))
        self._ready = self._subscriber.ready

    async def connect(self) -> None:
        """Begin to connect, and return at once: a server that is away at start is waited for."""
        self._tasks = [
            asyncio.create_task(self._subscriber.run(), name="redis-subscriber"),
            asyncio.create_task(self._trimmer.run(), name="redis-retention"),
        ]

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        deadline = await self._reached(deadline)
        commit = await self._store.store(records, deadline)
        self._trimmer.note({record.channel for record in records})
        return commit.result()

    async def follow(self, channel: str) -> Position:
        """Subscribe to the channel's publications, and begin at its head."""
        topic = names.topic(channel, self._address.database)
        try:
            await self._subscriber.add(topic)
            return await super().follow(channel)
        except BaseException:
            await self.unfollow(channel)
            raise

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._subscriber.remove(names.topic(channel, self._address.database))
        await super().unfollow(channel)
        self._reads.secrets.pop(channel, None)

    async def trim(self, grace: int = LEAST_SECONDS) -> None:
        """Delete what no history shows any more and is older than ``grace`` seconds, of what was stored lately."""
        await self._trimmer.trim(grace)

    async def _close(self) -> None:
        self._subscriber.close()
        self._reads.close()
        await asyncio.gather(self._work.close(), self._read.close())
