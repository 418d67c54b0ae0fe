"""What happened in each of the last seconds, in all workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from app.telemetry import activity
from app.telemetry.activity import BOUNDS, BUSY_SECONDS, SECONDS, Activity
from app.telemetry.counts import Counted, Counts
from app.telemetry.directory import DIRECTORY
from app.telemetry.metrics import Metrics


@pytest.fixture
def settled() -> int:
    """Return a second that every worker has written."""
    return int(time.time()) - 3


def busy(directory: str | None = None, **messages: int) -> Activity:
    """Return the activity of a worker in whose current second channels have messages."""
    made = Activity(directory)
    made.names.waiting.update(messages)
    return made


def test_a_second_has_what_happened_in_it(settled: int) -> None:
    """Second has the messages, gaps, refusals and ages of it, and none of the one before; an idle one is left out."""
    worker = busy(news=2, orders=3)
    worker.names.waiting["$tickets"] = 7
    worker.delivered, worker.gaps, worker.refused = 12, 1, 2
    worker.ages[0] = 12
    worker.tick(settled - 1)
    worker.tick(settled)
    until, seconds = worker.of_all(0)
    assert until >= settled
    assert seconds == [(settled - 1, 5, 12, 1, 2, (12, *[0] * len(BOUNDS)))]
    assert worker.of_all(settled - 1)[1] == []


def test_workers_are_added_up_and_outlived_by_their_seconds(
    tmp_path: Path, settled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker tells of the seconds of all, also of one that has ended, until all of its seconds are old."""
    first = busy(str(tmp_path), news=2)
    first.tick(settled)
    monkeypatch.setattr("os.getpid", lambda: 1)
    second = busy(str(tmp_path), news=3)
    second.tick(settled)
    activity.forget(str(tmp_path))
    assert [(at, published) for at, published, *_ in second.of_all(0)[1]] == [(settled, 5)]
    first.tick(settled - 2 * SECONDS)
    first.tick(settled - SECONDS)  # in the place of the one that was told of
    activity.forget(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    assert [(at, published) for at, published, *_ in second.of_all(0)[1]] == [(settled, 3)]


def test_the_file_of_a_worker_that_begins_stays(tmp_path: Path) -> None:
    """File of a worker that has just begun, empty or without a second in it, stays when another worker ends."""
    begun = busy(str(tmp_path))
    (file,) = tmp_path.iterdir()
    file.with_name(f"{file.name}0").touch()
    activity.forget(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    assert begun.of_all(0)[1] == []


def test_the_busiest_names_are_those_of_the_last_seconds() -> None:
    """Busiest names come with their messages of the last seconds together, and are forgotten after those."""
    worker = busy(news=2)
    worker.tick(1)
    worker.names.waiting.update(news=1, orders=9)
    worker.tick(2)
    assert worker.busiest[0] == {"orders": 9, "news": 3}
    for second in range(3, 2 + BUSY_SECONDS):
        worker.tick(second)
    assert worker.busiest[0] == {"orders": 9, "news": 1}
    worker.tick(2 + BUSY_SECONDS)
    assert worker.busiest[0] == {}


async def test_what_is_counted_for_metrics_is_counted_in_seconds(settled: int) -> None:
    """Meter counts messages, gaps, refusals and ages of live deliveries in the second, and by declared name."""
    metrics = Metrics(lambda name: None if name == "nobody" else "chat.{room}")
    metrics.published({"chat.a": 2, "chat.b": 1, "nobody": 1})
    metrics.delivered("chat.a", 5, int(time.time() * 1000) - 40)
    metrics.delivered("chat.a", 3)
    metrics.missed("expired")
    metrics.refused("overloaded")
    metrics.flush()
    metrics.activity.tick(settled)
    ((_, published, delivered, gaps, refused, ages),) = metrics.activity.of_all(0)[1]
    assert (published, delivered, gaps, refused, sum(ages)) == (4, 8, 1, 1, 5)
    assert next(bound for bound, count in zip(BOUNDS, ages, strict=False) if count) >= 0.05
    assert metrics.activity.busiest == ({"chat.a": 2, "chat.b": 1, "nobody": 1}, {"chat.{room}": 3})


def test_counts_of_all_workers_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of all workers are sums, but for the newest offset and the lag, which are the greatest."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    Counts().tell(Counted({"news": (3, 7)}, {"sse": 1}, 2, 5, {"news": 4}, {"news": 4}))
    monkeypatch.setattr("os.getpid", lambda: 1)
    counts = Counts()
    counts.tell(Counted({"news": (4, 6), "orders": (1, None)}, {"sse": 2}, 1, 9, {"news": 1}, {"news": 1}))
    expected = ({"news": (7, 7), "orders": (1, None)}, {"sse": 3}, 3, 9, {"news": 5}, {"news": 5}, 2)
    assert counts.of_all() == expected


async def test_nothing_is_lost_between_two_seconds() -> None:
    """Worker that writes second after second loses nothing of what is counted meanwhile."""
    metrics, counted = Metrics(str), 0
    running = asyncio.create_task(metrics.activity.run(metrics.settle))
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        metrics.delivered("news", 1)
        counted += 1
        await asyncio.sleep(0.002)
    running.cancel()
    metrics.settle()
    left = metrics.activity.delivered
    await asyncio.sleep(2.1)  # a second is told of once all workers have written it
    assert sum(second.delivered for second in metrics.activity.of_all(0)[1]) + left == counted
