"""Whether a server said that it is ready while pushes worked, and that it is not while they failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import aiohttp

from tests.support.publishers import Outcome

EVERY = 0.3
"""Seconds between two looks."""

PATIENCE = 5.0
"""Seconds that the server may be wrong."""

QUIET = 2.0
"""Seconds without an outcome, or that a push took, after which nobody knows whether pushes work."""


class Sample(NamedTuple):
    """What a server said at a time of the monotonic clock: a status, or None without an answer."""

    at: float
    status: int | None
    reasons: str


async def watch(url: str, samples: list[Sample]) -> None:
    """Ask again and again whether a server is ready, each time on a new connection, until cancelled."""
    while True:
        samples.append(await _ask(url))
        await asyncio.sleep(EVERY)


async def _ask(url: str) -> Sample:
    timeout = aiohttp.ClientTimeout(total=QUIET)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"{url}/health/ready") as response:
            body = await response.json()
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
        return Sample(time.monotonic(), None, repr(error))
    return Sample(time.monotonic(), response.status, "; ".join(body.get("reasons") or []))


def faults(outcomes: Iterable[Outcome], samples: Sequence[Sample], patience: float = PATIENCE) -> list[str]:
    """Return in words where the server was wrong for longer than ``patience``."""
    wrong = []
    for ok, begin, end in _stretches(sorted(outcomes)):
        untrue = 503 if ok else 200
        during = [sample for sample in samples if begin <= sample.at <= end]
        for status, group in groupby(during, key=lambda sample: sample.status):
            run = list(group)
            seconds = run[-1].at - run[0].at
            if status == untrue and seconds > patience:
                pushes = "pushes worked" if ok else "pushes failed"
                wrong.append(
                    f"readiness: {status} for {seconds:.1f} s while {pushes} ({run[-1].reasons or 'no reason'})"
                )
    return wrong


def _stretches(outcomes: Sequence[Outcome]) -> Iterator[tuple[bool, float, float]]:
    """Yield the times (whether pushes worked, begin, end) in which all outcomes are alike, and close to each other."""
    begin: Outcome | None = None
    last: Outcome | None = None
    for outcome in outcomes:
        slow = outcome.ok and outcome.seconds > QUIET
        if last is None or begin is None or slow or outcome.ok != last.ok or (last.ok and outcome.at - last.at > QUIET):
            if begin is not None and last is not None:
                yield begin.ok, begin.at, last.at
            begin = outcome
        last = outcome
    if begin is not None and last is not None:
        yield begin.ok, begin.at, last.at
