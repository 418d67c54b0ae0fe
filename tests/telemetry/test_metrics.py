"""One process's numbers, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from app.telemetry.metrics import Metrics
from tests.support.metrics import parse


@pytest.fixture
def metrics() -> Metrics:
    """Return the numbers of a process that declares ``news`` and a family."""
    made = Metrics(lambda name: "chat.{room}" if name.startswith("chat.") else name if name == "news" else None)
    made.declare(["news", "chat.{room}"])
    return made


async def samples(metrics: Metrics) -> dict[str, float]:
    body, _ = await metrics.exposition("")
    return parse(body.decode())


async def test_labels_are_always_declared_names(metrics: Metrics) -> None:
    """Label of a channel is its declared name, the family's for its members; the rest is one number, logged once."""
    with capture_logs() as logs:
        metrics.published({"news": 2, "chat.a": 3, "nobody": 5})
        metrics.published({"chat.b": 4, "else": 1})
        metrics.delivered("chat.a", 6)
        await samples(metrics)
        metrics.published({"nobody": 5})
        found = await samples(metrics)
    assert [(line["event"], line["channel"]) for line in logs] == [
        ("undeclared_channel", "nobody"),
        ("undeclared_channel", "else"),
    ]
    published = {name: value for name, value in found.items() if name.startswith("abide_published_total")}
    assert published == {'abide_published_total{channel="news"}': 2, 'abide_published_total{channel="chat.{room}"}': 7}
    assert found['abide_delivered_total{channel="chat.{room}"}'] == 6
    assert found["abide_undeclared_total"] == 11


async def test_no_count_is_lost_when_the_worker_stops(metrics: Metrics) -> None:
    """Counts of many channels are all written though the task that writes them is cancelled meanwhile."""
    metrics.published({f"chat.{number}": 1 for number in range(2000)})
    writing = asyncio.create_task(metrics.flush_in_slices())
    await asyncio.sleep(0)
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    assert writing.cancelled()
    assert (await samples(metrics))['abide_published_total{channel="chat.{room}"}'] == 2000


async def test_every_series_begins_at_zero(metrics: Metrics) -> None:
    """Series of a declared channel are there before anything happens, so that their first increment shows."""
    found = await samples(metrics)
    for name in ("abide_published_total", "abide_delivered_total", "abide_subscribers"):
        assert found[f'{name}{{channel="news"}}'] == 0


async def test_a_histogram_puts_each_observation_into_its_bucket(metrics: Metrics) -> None:
    """Histogram puts an observation into the first bucket whose bound is not below it, and adds up."""
    for seconds in (0.0001, 0.0003, 0.0005, 70):
        metrics.appended(10, seconds)
    found = await samples(metrics)
    bounds = ("0.0001", "0.00025", "0.0005", "10.0", "+Inf")
    assert [found[f'abide_append_seconds_bucket{{le="{bound}"}}'] for bound in bounds] == [1, 1, 3, 3, 4]
    assert found["abide_append_seconds_sum"] == pytest.approx(70.0009)
    assert found["abide_append_batch_messages_sum"] == 40
    assert found["abide_append_batch_messages_count"] == 4


async def test_gauges_say_what_the_last_sample_said(metrics: Metrics) -> None:
    """Gauges say what the last sample said; a connection that has ended is not counted."""
    for kind in ("websocket", "websocket", "sse"):
        metrics.connected(kind)
    metrics.disconnected("websocket")
    metrics.config_ok = False
    metrics.sample({"news": 3}, slow=2, lag=17, backend_ok=True)
    found = await samples(metrics)
    assert [found[f'abide_connections{{kind="{kind}"}}'] for kind in ("websocket", "sse", "poll")] == [1, 1, 0]
    assert found['abide_subscribers{channel="news"}'] == 3
    assert (found["abide_slow_subscribers"], found["abide_slow_lag_messages"]) == (2, 17)
    assert (found["abide_config_ok"], found["abide_backend_ok"]) == (0, 1)


async def test_a_late_loop_is_seen_to_be_late(metrics: Metrics) -> None:
    """Loop that stands still for a moment is seen to have been late by as much."""
    sampled = asyncio.Event()

    async def sample() -> None:
        sampled.set()

    running = asyncio.create_task(metrics.run(sample))
    await sampled.wait()
    await asyncio.sleep(0)  # its timer runs
    time.sleep(0.5)  # noqa: ASYNC251 — nothing else is to turn
    sampled.clear()
    await sampled.wait()
    running.cancel()
    found = await samples(metrics)
    late = found["abide_loop_delay_seconds_count"] - found['abide_loop_delay_seconds_bucket{le="0.25"}']
    assert late == 1
    assert found["abide_loop_delay_seconds_sum"] > 0.35


async def test_the_exposition_is_in_the_format_that_is_asked_for(metrics: Metrics) -> None:
    """Exposition is in the format that is asked for, and says in which."""
    _, plain = await metrics.exposition("text/html")
    body, open_metrics = await metrics.exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert plain == "text/plain; version=0.0.4; charset=utf-8"
    assert open_metrics.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"abide_published"}
