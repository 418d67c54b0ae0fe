"""Numbers that wait in plain variables until they are written to what Prometheus reads.

Writing one costs a microsecond, so the hot paths only add, and :mod:`app.telemetry.metrics` writes once a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from operator import add

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from app.telemetry.activity import BOUNDS, INTERNAL, Activity

_MOST_TOLD = 100
"""How many undeclared channels a process names in its log: a mistake has few, but SQL may invent any number."""

_log = structlog.get_logger(__name__)

Label = Callable[[str], str | None]
"""Returns the declared name of a channel's name; None if it is not declared."""


class Buckets(Histogram):
    """A histogram without labels, which is written a bucket at a time instead of an observation at a time."""

    def __init__(self, name: str, means: str, registry: CollectorRegistry, bounds: tuple[float, ...]) -> None:
        super().__init__(name, means, registry=registry, buckets=bounds)
        self.bounds = bounds

    def zeros(self) -> list[int]:
        """Return a count for each bucket: up to each of the bounds, and beyond."""
        return [0] * (len(self.bounds) + 1)

    def write(self, counts: list[int], total: float) -> Iterator[None]:
        """Write observations, one bucket at a time; ``total`` is the sum of their values."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
                yield


class Noted(Buckets):
    """A histogram whose observations wait in a list."""

    def __init__(self, name: str, means: str, registry: CollectorRegistry, bounds: tuple[float, ...]) -> None:
        super().__init__(name, means, registry, bounds)
        self._waiting: list[float] = []
        self.note = self._waiting.append
        """Take one observation."""

    def flush(self) -> Iterator[None]:
        """Write what waits; counts one observation at a time."""
        waiting = self._waiting.copy()
        self._waiting.clear()
        return self._write(waiting)

    def _write(self, waiting: list[float]) -> Iterator[None]:
        counts = self.zeros()
        for value in waiting:
            counts[bisect_left(self.bounds, value)] += 1
            yield
        yield from self.write(counts, sum(waiting))


class Ages(Buckets):
    """A histogram whose observations wait in plain numbers."""

    def __init__(self, name: str, means: str, registry: CollectorRegistry) -> None:
        super().__init__(name, means, registry, BOUNDS)
        self.waiting, self.seconds = self.zeros(), 0.0
        self._settled = self.zeros()

    def settle(self) -> list[int]:
        """Take what waits, and return it."""
        waiting, self.waiting = self.waiting, self.zeros()
        self._settled = list(map(add, self._settled, waiting))
        return waiting

    def flush(self) -> Iterator[None]:
        """Write what was settled, one bucket at a time."""
        settled, self._settled = self._settled, self.zeros()
        seconds, self.seconds = self.seconds, 0.0
        return self.write(settled, seconds)


class Tallied:
    """A counter with one label, whose increments wait in plain numbers."""

    def __init__(self, counter: Counter, values: Iterable[str] = ()) -> None:
        self._counter = counter
        self.waiting: Tally[str] = Tally()
        self._settled: Tally[str] = Tally()
        self.show(values)

    def show(self, values: Iterable[str]) -> None:
        """Start series at 0 before there is anything to count: otherwise Prometheus misses the first increment."""
        for value in values:
            self._counter.labels(value)

    def settle(self) -> Tally[str]:
        """Take what waits, and return it."""
        waiting, self.waiting = self.waiting, Tally()
        self._settled.update(waiting)
        return waiting

    def flush(self, label: Label = str) -> Iterator[None]:
        """Write what waits, one number a label; looks up one name at a time. Names without a label are left out."""
        self.settle()
        settled, self._settled = self._settled, Tally()
        return self._pass_on(settled, label)

    def _pass_on(self, waiting: Tally[str], label: Label) -> Iterator[None]:
        labelled: Tally[str] = Tally()
        for name, count in waiting.items():
            value = label(name)
            if value is not None:
                labelled[value] += count
            else:
                self._unlabelled(name, count)
            yield
        for value, count in labelled.items():  # a family has many names
            self._counter.labels(value).inc(count)
            self._labelled(value, count)
            yield

    def _labelled(self, value: str, count: int) -> None:
        """Take note of a number that was written."""

    def _unlabelled(self, name: str, count: int) -> None:
        """Take note of a number without a label."""


class Published(Tallied):
    """Messages by channel: also those of channels that are not declared, and how busy each declared name is."""

    def __init__(self, counter: Counter, undeclared: Counter, activity: Activity) -> None:
        super().__init__(counter)
        self._undeclared = undeclared
        self._told: set[str] = set()
        self._activity = activity

    def _labelled(self, value: str, count: int) -> None:
        self._activity.declared.waiting[value] += count

    def _unlabelled(self, name: str, count: int) -> None:
        if name.startswith(INTERNAL):
            return
        self._undeclared.inc(count)
        if name not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(name)
            _log.warning("undeclared_channel", channel=name, detail="nobody can subscribe: declare it in channels.yaml")
