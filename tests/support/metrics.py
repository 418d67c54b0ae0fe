"""The metrics of a server, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

_POLL = 0.05

_LATE = 1.2
"""Seconds within which what a worker counts reaches the others."""


def parse(text: str) -> dict[str, float]:
    """Return the samples of an exposition by their series: ``name`` or ``name{label="value"}``."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {series(sample.name, sample.labels): sample.value for sample in samples}


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return how a series is written."""
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def scrape(url: str) -> dict[str, float]:
    """Return what the server says now."""
    return parse(httpx.get(f"{url}/metrics", timeout=10).raise_for_status().text)


def settled(url: str) -> dict[str, float]:
    """Return what the server says once two looks, more than a second apart, find the same counts."""
    before = scrape(url)
    while True:
        time.sleep(_LATE)
        now = scrape(url)
        if all(before.get(name) == value for name, value in now.items() if _is_counter(name) and not _goes_on(name)):
            return now
        before = now


def expect(
    url: str, expected: Mapping[str, float], *, since: Mapping[str, float] | None = None, timeout: float = 10
) -> None:
    """Return when the server says all of this; what its other workers count comes a second late.

    ``since`` is what it said before, from which counters are counted.
    """
    deadline = time.monotonic() + timeout
    while True:
        samples = scrape(url)
        found = {name: samples.get(name) for name in expected}
        for name in filter(_is_counter, (since or {}).keys() & found.keys()):
            found[name] = samples[name] - (since or {})[name]
        if found == expected:
            return
        assert time.monotonic() < deadline, f"found {found}, expected {expected}"
        time.sleep(_POLL)


def _is_counter(name: str) -> bool:
    return name.partition("{")[0].endswith(("_total", "_sum", "_count"))


def _goes_on(name: str) -> bool:
    """Whether it is counted though nobody does anything."""
    return "loop_delay" in name or "roundtrip" in name
