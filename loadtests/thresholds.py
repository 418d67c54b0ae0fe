"""The thresholds of a run, and whether it exceeded them. This module does not need locust."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.reconciliation import Heads, Row, total


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds: the probe's p99 in milliseconds, and counts over the whole run."""

    p99: float
    failures: int
    holes: int
    doubles: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run. ``latencies`` are the probe's, in milliseconds."""

    rows: Sequence[Row]
    heads: Heads
    latencies: Sequence[float]
    failures: int
    exceptions: int
    silent_workers: int


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that ``percent`` % of the values do not exceed; NaN if there are no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def judge(outcome: Outcome, limits: Limits) -> list[str]:
    """Return the reasons why the run failed; none if it passed."""
    totals, p99 = total(outcome.rows), percentile(outcome.latencies, 99)
    anew = [channel for channel, epochs in outcome.heads.items() if len(epochs) > 1]
    reasons = {
        "no subscriber received anything": not totals.received,
        "the probe received nothing": not outcome.latencies,
        f"p99 of fan-out is {p99:.1f} ms, more than {limits.p99:g}": p99 > limits.p99,
        f"{outcome.failures} failures, more than {limits.failures}": outcome.failures > limits.failures,
        f"{totals.holes} holes, more than {limits.holes}": totals.holes > limits.holes,
        f"{totals.doubles} doubles, more than {limits.doubles}": totals.doubles > limits.doubles,
        f"the log began anew during the run: {', '.join(anew)}": bool(anew),
        f"{outcome.exceptions} exceptions in users": outcome.exceptions > 0,
        f"{outcome.silent_workers} locust processes did not report what they received": outcome.silent_workers > 0,
    }
    return [reason for reason, holds in reasons.items() if holds]
