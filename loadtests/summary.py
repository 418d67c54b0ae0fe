"""A run's outcome, for people and for programs."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from loadtests.reconciliation import Row, total
from loadtests.thresholds import Outcome, percentile

PERCENTILES = (50, 90, 99, 100)
WORST = 10


def as_text(outcome: Outcome, reasons: Sequence[str]) -> str:
    """Write it for people."""
    totals = total(outcome.rows)
    figures = ", ".join(f"p{percent} {percentile(outcome.latencies, percent):.1f}" for percent in PERCENTILES)
    faulty = sorted((row for row in outcome.rows if row.holes or row.doubles), key=lambda row: -row.holes - row.doubles)
    lines = [
        f"Probe's fan-out, ms: {figures} (of {len(outcome.latencies)} messages)",
        f"Reconciliation: {totals.subscribers} subscribers expected {totals.expected}, received {totals.received}",
        f"  {totals.holes} holes, {totals.doubles} doubles; {totals.gaps} gaps told, of {totals.gone} messages",
        *map(_account, faulty[:WORST]),
        *([f"FAILED: {reason}" for reason in reasons] or ["PASSED: nothing exceeded its threshold"]),
    ]
    return "\n".join(lines)


def as_json(outcome: Outcome, reasons: Sequence[str]) -> str:
    """Write it for programs; each subscriber's account is one line."""
    head = {
        "passed": not reasons,
        "reasons": list(reasons),
        "probe_ms": {f"p{percent}": percentile(outcome.latencies, percent) for percent in PERCENTILES}
        if outcome.latencies
        else None,
        "probe_messages": len(outcome.latencies),
        "failures": outcome.failures,
        "exceptions": outcome.exceptions,
        "silent_workers": outcome.silent_workers,
        "heads": outcome.heads,
        "reconciliation": total(outcome.rows)._asdict(),
    }
    rows = ",\n  ".join(json.dumps(row._asdict() | {"holes": row.holes}) for row in outcome.rows)
    return f'{json.dumps(head, indent=1)[:-2]},\n "subscribers": [\n  {rows}\n ]\n}}\n'


def under(page: str, text: str) -> str:
    """Return locust's own report with the summary below it, because locust does not know of the reconciliation.

    It looks for the end of the page, because the scripts inside contain a ``</body>`` too.
    """
    before, end, after = page.rpartition("</body>")
    return f'{before}<pre id="summary" style="margin: 2em">{html.escape(text)}</pre>{end}{after}'


def add_to_page(path: Path, text: str) -> None:
    """Add the summary below the report in a file."""
    path.write_text(under(path.read_text(encoding="utf-8"), text), encoding="utf-8")


def _account(row: Row) -> str:
    who = f"{row.subscriber} of {row.channel}"
    return f"  {who}: expected {row.expected}, received {row.received}, {row.holes} holes, {row.doubles} doubles"
