"""A crowd of subscribers, what is published to them, and the report of a run in which they were told wrong."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import aiohttp

from tests.support import rewritten
from tests.support.publishers import Publisher
from tests.support.rewritten import Present
from tests.support.subscribers import Subscriber
from tests.support.verdict import Began, Cut, Got, Ledger, Log, Missed, Saved, Timeline

HURRY = 0.004
"""Seconds after which a publisher in a hurry has gone away."""

SHOWN = 20
"""Faults that a report shows in full."""


class Tally(NamedTuple):
    """What happened in a run, in numbers."""

    acknowledged: int
    doubtful: int
    deliveries: int
    resumes: int
    gaps: int

    def __str__(self) -> str:
        return (
            f"{self.acknowledged:,} messages acknowledged and {self.doubtful:,} in doubt, "
            f"{self.deliveries:,} deliveries, {self.resumes:,} resumes, {self.gaps:,} gaps told"
        )


class Crowd:
    """Subscribers of one server and their publisher."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.timeline = Timeline()
        self.ledger = ledger
        self.subscribers: list[Subscriber] = []
        self.publisher = Publisher(url, self.ledger, self.timeline)
        self._url = url
        self._serial = itertools.count(1)

    @property
    def logs(self) -> Iterator[Log]:
        """What each subscriber was told of each of its channels."""
        return (log for subscriber in self.subscribers for log in subscriber.logs.values())

    async def opened(self) -> None:
        """Return when everybody is subscribed."""
        await asyncio.gather(*(subscriber.opened() for subscriber in self.subscribers))

    async def publish(self, action: str, channel: str, *, number: int, size: int) -> None:
        """Publish messages of ``size``: ``many`` by one request, else one by one."""
        datas = [self.data(size) for _ in range(number)]
        if action == "many":
            await self.publisher.many(channel, datas)
            return
        for data in datas:
            if action == "once":
                await self.publisher.once(channel, data)
            else:
                await self.publisher.insist(channel, data, impatience=HURRY if action == "hurry" else None)

    async def settle(self, channels: Sequence[str], *, seconds: float, patience: float = 2) -> bool:
        """Let everybody come back, and publish until all have the last message: False unless within ``seconds``.

        A plain subscriber may have been away for the last message, and begins at the head: after ``patience`` seconds
        there is another one. When time is up it is the verdict that tells what is missing, in full.
        """
        for subscriber in self.subscribers:
            subscriber.come()
            subscriber.go_on()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not await self._reach_the_end(channels, patience):
                    pass
                return True
        return False

    async def _reach_the_end(self, channels: Sequence[str], patience: float) -> bool:
        await self.opened()
        last = {name: self.data(10) for name in channels}
        await asyncio.gather(*(self.publisher.insist(name, data) for name, data in last.items()))
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while any(log.last != last[log.channel] for log in self.logs):  # noqa: ASYNC110 — see below
                    await asyncio.sleep(0.01)  # hundreds of logs, and no need to be told of each
                return True
        return False

    @contextmanager
    def rewriting(self, saved: Saved) -> Iterator[None]:
        """Replace the log by a copy of which ``saved`` is known: each subscriber may be told of a gap from now on."""
        for log in self.logs:
            log.rewritten()
        with self.ledger.rewriting(saved):
            yield
        for log in self.logs:
            log.settled()

    async def held(self, channel: str) -> dict[int, str]:
        """Return what a channel's history shows: data by offset."""
        held: dict[int, str] = {}
        url, since = f"{self._url}/{channel}/history", "earliest"
        async with aiohttp.ClientSession() as http:
            while True:
                async with http.get(url, params={"since": since, "limit": "1000"}) as response:
                    response.raise_for_status()
                    page = await response.json()
                held |= {message["offset"]: message["data"] for message in page["messages"]}
                if not page["messages"] or page["messages"][-1]["offset"] >= page["last"]:
                    return held
                since = page["messages"][-1]["position"]

    def faults(self, held: Present | None = None) -> list[str]:
        """Return what is wrong, in words; ``held`` are the present logs, where messages were lost lawfully."""
        logs = list(self.logs)
        unseen = [f"{log}: has seen nothing" for log in logs if not log.told]
        return unseen + (self.ledger.faults(logs) if held is None else rewritten.faults(self.ledger, logs, held))

    def tally(self) -> Tally:
        """Count what happened."""
        deliveries = resumes = gaps = 0
        for log in self.logs:
            deliveries += sum(isinstance(told, Got) for told in log.told)
            gaps += sum(isinstance(told, Missed) for told in log.told)
            if not log.plain:
                resumes += sum(
                    isinstance(before, Cut) and isinstance(after, Began | Got)
                    for before, after in itertools.pairwise(log.told)
                )
        return Tally(*self.ledger.counts(), deliveries, resumes, gaps)

    def report(self, again: str, faults: Sequence[str], schedule: Iterable[object]) -> str:
        """Return all that is needed to see why a run failed; ``again`` says how to play it again."""
        more = [f"… and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        concerned = {fault.partition(" on ")[0] for fault in faults[:SHOWN]}
        told = ["schedule:", *map(str, schedule), "timeline:", *self.timeline.lines(by=concerned)]
        return "\n".join([again, *faults[:SHOWN], *more, *told])

    def data(self, size: int) -> str:
        """Return a text of about so many characters that no other message has."""
        return f"{next(self._serial)} ".ljust(size, ".")
