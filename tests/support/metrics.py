"""The metrics of a server, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

_POLL = 0.05


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


def expect(url: str, expected: Mapping[str, float], *, timeout: float = 10) -> None:
    """Return when the server says all of this; what its other workers count comes a second late."""
    deadline = time.monotonic() + timeout
    while True:
        samples = scrape(url)
        found = {name: samples.get(name) for name in expected}
        if found == expected:
            return
        assert time.monotonic() < deadline, f"found {found}, expected {expected}"
        time.sleep(_POLL)
