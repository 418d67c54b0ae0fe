"""What the server counts and measures, for Prometheus.

Under gunicorn each worker writes its numbers to its own files, and the one that is asked reads the files
of all (``prometheus_client``'s multiprocess mode). Numbers of a dead worker stay, except gauges of
living workers (``live…``). In a single process, without :data:`DIRECTORY`, numbers are in memory.

Writing a number to a file costs a microsecond. So counts wait in plain variables and are written once a
second, and also before a reload and before this worker answers a scrape.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import add

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from app.telemetry.activity import BOUNDS, Activity
from app.telemetry.directory import DIRECTORY
from app.telemetry.tallies import Ages, Label, Noted, Published, Tallied

disable_created_metrics()  # type: ignore[no-untyped-call] # times at which a series began: the files do not have them

TICK_SECONDS = 0.1
"""Seconds between two measurements of the event loop's delay."""

_SLICE = 500
"""Numbers that are written in one turn of the loop."""

_TICKS = 10
"""Measurements between two flushes."""

_APPEND = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_ROUNDTRIP = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_DELAY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """One worker's numbers. Implements the core's ``Meter``.

    Only ``declared`` names become labels, so that requests cannot create series.
    """

    def __init__(self, declared: Label) -> None:
        self._declared = declared
        self._registry = CollectorRegistry()
        self.activity = Activity()
        """What happens in each second."""
        self._delivered = Tallied(self._counter("abide_delivered", "Messages handed to connections", "channel"))
        undeclared = Counter(
            "abide_undeclared", "Messages stored for channels that are not declared", registry=self._registry
        )
        published = self._counter("abide_published", "Messages stored", "channel")
        self._published = Published(published, undeclared, self.activity)
        self._gaps = Tallied(self._counter("abide_gaps", "Gaps that subscribers were told of", "reason"))
        self._resumes = Tallied(
            self._counter("abide_resumes", "Subscriptions that began after a position", "outcome"), ("resumed", "gap")
        )
        self._refused = Tallied(self._counter("abide_push_refused", "Pushes and items of pushes refused", "code"))
        self._failed = Tallied(
            self._counter("abide_errors", "Bugs, and other servers that did not answer", "kind"),
            ("connection", "delivery", "request", "jwks", "ask"),
        )
        self._limited = Tallied(self._counter("abide_limited", "Clients that met a bound", "limit"))
        self._append = self._histogram("abide_append_seconds", "Time of one append of a batch", _APPEND)
        self._ages = Ages("abide_delivery_seconds", "From a message's time until it is written", self._registry)
        self._batch = self._histogram("abide_append_batch_messages", "Messages in one append", _BATCH)
        self._roundtrip = self._histogram(
            "abide_backend_roundtrip_seconds", "From a notification's sending until it is heard", _ROUNDTRIP
        )
        self._delay = self._histogram("abide_loop_delay_seconds", "How late the event loop comes to a timer", _DELAY)
        self._subscribers = self._gauge("abide_subscribers", "Subscriptions", "livesum", "channel")
        self._connections = self._gauge("abide_connections", "Connections of subscribers", "livesum", "kind")
        self._slow = self._gauge("abide_slow_subscribers", "Subscriptions whose buffer is full", "livesum")
        self._lag = self._gauge("abide_slow_lag_messages", "How far the slowest subscription is behind", "livemax")
        self._config_ok = self._gauge("abide_config_ok", "Whether the file on disk is the one in force", "livemin")
        self._backend_ok = self._gauge("abide_backend_ok", "Whether the backend stores, reads and is heard", "livemin")
        self.connections: Tally[str] = Tally(dict.fromkeys(("websocket", "sse", "poll"), 0))
        """How many connections this worker has, by kind."""
        self._shown: dict[str, int] = {}
        """The values that the gauge of subscriptions has."""
        self.config_ok = True
        """Whether the file on disk is the one in force."""

    # The core's Meter.

    def appended(self, messages: int, seconds: float) -> None:
        """Count one append."""
        self._batch.note(messages)
        self._append.note(seconds)

    def published(self, messages: Mapping[str, int]) -> None:
        """Count messages that were stored."""
        waiting = self._published.waiting
        for channel, count in messages.items():
            waiting[channel] = waiting.get(channel, 0) + count  # += calls a method of Python's for a new one

    def heard(self, seconds: float) -> None:
        """Count one round trip."""
        self._roundtrip.note(seconds)

    def delivered(self, channel: str, messages: int, oldest: int | None = None) -> None:
        """Count messages that were handed to connections."""
        waiting = self._delivered.waiting
        waiting[channel] = waiting.get(channel, 0) + messages
        if oldest is not None:
            ages, seconds = self._ages, time.time() - oldest / 1000
            if seconds < 0:  # the backend's clock is ahead
                seconds = 0.0
            ages.waiting[bisect_left(BOUNDS, seconds)] += messages
            ages.seconds += seconds * messages

    def resumed(self, *, complete: bool) -> None:
        """Count one resume."""
        self._resumes.waiting["resumed" if complete else "gap"] += 1

    def missed(self, reason: str) -> None:
        """Count one gap."""
        self._gaps.waiting[reason] += 1
        self.activity.gaps += 1

    def connected(self, kind: str) -> None:
        """Count a connection."""
        self.connections[kind] += 1

    def disconnected(self, kind: str) -> None:
        """Count one connection less."""
        self.connections[kind] -= 1

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refused.waiting[code] += 1
        self.activity.refused += 1

    def failed(self, kind: str) -> None:
        """Count something that a bug ended, or that another server did not answer."""
        self._failed.waiting[kind] += 1

    def limited(self, limit: str) -> None:
        """Count a client that met a bound."""
        self._limited.waiting[limit] += 1

    # For the composition root.

    def declare(self, channels: Iterable[str]) -> None:
        """Show these channels from now on. Channels that were shown before keep their counts."""
        names = list(channels)
        self._published.show(names)
        self._delivered.show(names)
        for name in names:
            self._subscribers.labels(name)

    def sample(self, subscribers: Mapping[str, int], *, slow: int, lag: int, backend_ok: bool) -> None:
        """Take what is sampled, not counted: subscriptions by declared name, and how far the slow ones are behind."""
        for channel, count in subscribers.items():
            if self._shown.get(channel) != count:  # few of thousands of channels have changed
                self._shown[channel] = count
                self._subscribers.labels(channel).set(count)
        for kind, count in self.connections.items():
            self._connections.labels(kind).set(count)
        self._slow.set(slow)
        self._lag.set(lag)
        self._config_ok.set(self.config_ok)
        self._backend_ok.set(backend_ok)

    async def rename(self, declared: Label) -> None:
        """Count under other names from now on; earlier counts are written under the old ones."""
        counted = self._counted()
        self._declared = declared
        await _in_slices(counted)

    def flush(self) -> None:
        """Write what was counted."""
        for _ in self._counted():
            pass

    async def flush_in_slices(self) -> None:
        """As :meth:`flush`, in slices that let other tasks run: there may be hundreds of thousands of names."""
        await _in_slices(self._counted())

    def settle(self) -> None:
        """Count what waits for the second that has not ended."""
        self.activity.names.waiting.update(self._published.settle())
        self.activity.delivered += self._delivered.settle().total()
        self.activity.ages = list(map(add, self.activity.ages, self._ages.settle()))

    def _counted(self) -> Iterator[None]:
        """Take what was counted, and return an iterator that writes it step by step."""
        self.settle()
        return chain(
            *[noted.flush() for noted in (self._append, self._ages, self._batch, self._roundtrip, self._delay)],
            self._published.flush(self._declared),
            self._delivered.flush(self._declared),
            *[tallied.flush() for tallied in (self._gaps, self._resumes, self._refused, self._failed, self._limited)],
        )

    async def run(self, sample: Callable[[], Awaitable[None]]) -> None:
        """Measure the event loop's delay, and once a second ``sample`` and flush; never returns."""
        while True:
            await sample()
            await self.flush_in_slices()
            for _ in range(_TICKS):
                due = time.monotonic() + TICK_SECONDS  # the loop's own clock does not move while it is busy
                await asyncio.sleep(TICK_SECONDS)
                self._delay.note(max(0.0, time.monotonic() - due))

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the numbers of all workers, and their content type, for the ``Accept`` header ``accept``.

        A thread puts them together: with thousands of channels it takes a while.
        """
        await self.flush_in_slices()
        return await asyncio.to_thread(expose, accept, self._registry)

    def _counter(self, name: str, means: str, label: str) -> Counter:
        return Counter(name, means, [label], registry=self._registry)

    def _histogram(self, name: str, means: str, bounds: tuple[float, ...]) -> Noted:
        return Noted(name, means, self._registry, bounds)

    def _gauge(self, name: str, means: str, over_workers: str, *labels: str) -> Gauge:
        return Gauge(name, means, labels, registry=self._registry, multiprocess_mode=over_workers)  # type: ignore[arg-type]


async def _in_slices(steps: Iterator[None]) -> None:
    try:
        for number, _ in enumerate(steps, start=1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
    finally:  # when the worker stops meanwhile, nobody else has what was taken
        for _ in steps:
            pass


def expose(accept: str, single: CollectorRegistry | None = None) -> tuple[bytes, str]:
    """Return what all processes have written, and its content type; without files, the numbers of ``single``."""
    registry = single
    if registry is None or DIRECTORY in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
