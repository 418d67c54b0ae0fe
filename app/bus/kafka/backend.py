"""The Kafka backend put together: at each broker one connection for commits, one that waits for news, one for reads."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from app.bus.backend import Backend, BackendHealth, Retention
from app.bus.follower import Follower
from app.bus.kafka.brokers import broker_errors
from app.bus.kafka.brokers.bootstrap import Address
from app.bus.kafka.brokers.cluster import LOST, Cluster
from app.bus.kafka.consumer import Consumer
from app.bus.kafka.keys import Keys
from app.bus.kafka.log import Log
from app.bus.kafka.store import Store
from app.bus.kafka.topics import Declarations, Declared, Topic, Topics
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Message, Page, Position, Record
from app.core.ports import Outcome

PATIENCE_SECONDS = 5.0
"""How long a commit or a read waits for a broker that is away before it is refused."""

_RETRY_SECONDS = 0.1

T = TypeVar("T")


class KafkaBackend(Backend):
    """The log in Kafka: one topic of one partition for each channel.

    ``declared`` says which channels are topics of others, and which are of a family. ``clock`` returns seconds since
    1970, which become the times of messages.
    """

    def __init__(
        self,
        address: Address,
        *,
        retention: Retention,
        declared: Declarations = lambda _: Declared(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._place = address.place
        self._outcomes = Outcomes("not connected yet", broker_errors.WORDING)
        self._cluster = Cluster(address)
        self._topics = Topics(self._cluster, address.prefix, declared, retention)
        self._log = Log(self._cluster, self._topics, clock)
        self._store = Store(
            self._place, self._cluster, self._topics, self._log, Keys(self._log, clock), self._outcomes, clock
        )
        self._follower = Follower(self._behind)
        self._consumer = Consumer(
            self._place, self._cluster, self._topics, self._log, self._follower, self._store.probe, self._outcomes
        )
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = self._outcomes.wrong() or "listening"
        return (
            f"<KafkaBackend {self._place}, {len(self._follower)} followed, {self._follower.held} bytes held: {state}>"
        )

    async def connect(self) -> None:
        """Begin to connect, and return at once: brokers that are away at start are waited for."""
        self._task = asyncio.create_task(self._consumer.run(), name="kafka-consumer")

    async def disconnect(self) -> None:
        """Stop listening and close the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._cluster.close()

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records; see the contract."""
        deadline = time.monotonic() + PATIENCE_SECONDS if deadline is None else deadline
        await self._reached(deadline)
        return await self._store.store(records, deadline)

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see the contract."""
        return await self._with_topic(channel, lambda topic: self._log.page(topic, after, limit, history))

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        return (await self._read_place(channel)).head

    async def follow(self, channel: str) -> Position:
        """Begin at the head. The topic of a declared channel is created; that of a family's member is waited for."""
        await self._reached(time.monotonic() + PATIENCE_SECONDS)
        if not self._topics.is_family(channel):
            with _refusing(self._outcomes):
                (topic,) = (await self._topics.find([channel])).values()
                if topic is None and (problem := self._topics.missing(channel)):
                    raise problem
                if topic is None:
                    await self._topics.make([channel])
        found = await self._follower.follow(channel, self._read_place)
        self._consumer.wake()
        return found

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._follower.unfollow(channel)

    async def next_batch(self) -> Batch | EpochChange:
        """Hand out what was fetched."""
        while True:
            try:
                return await self._follower.next_batch()
            except UnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)

    async def health(self) -> BackendHealth:
        """Say whether what is sent is stored and fetched again."""
        wrong = self._outcomes.wrong()
        return BackendHealth(ok=wrong is None, detail=wrong or f"kafka at {self._place}")

    async def _reached(self, deadline: float) -> None:
        """Wait for the first session; raise :class:`UnavailableError` at the deadline."""
        if self._consumer.ready.is_set():
            return
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._consumer.ready.wait()
        except TimeoutError:
            reason = UnavailableError(self._outcomes.wrong() or "no session yet")
            raise UnavailableError(broker_errors.NOT_READY) from reason

    async def _with_topic(self, channel: str, read: Callable[[Topic | None], Awaitable[T]]) -> T:
        """Read of a channel's topic; read again while a broker is away, and if the topic may have been another one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        await self._reached(deadline)
        last: BaseException | None = None
        with _refusing(self._outcomes), self._outcomes.under_way("read"):
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
                        return found
            raise last or TimeoutError

    async def _read_place(self, channel: str) -> Place:
        return await self._with_topic(channel, self._log.place)

    async def _behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        """Read, for each channel, where it is and the next messages past an offset."""
        found = {}
        for channel, after in wanted.items():
            found[channel] = await self._with_topic(channel, partial(self._log.next, after=after))
        return found


@contextlib.contextmanager
def _refusing(outcomes: Outcomes) -> Iterator[None]:
    """Turn what goes wrong inside into what clients are told."""
    try:
        yield
    except LOST as error:
        outcomes.failed("read", broker_errors.explain(error), certain=False)
        raise UnavailableError(broker_errors.NOT_READY) from error
