"""The report of the whole machine: tables for people, and what of it is a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.support.memory_group import MIB
from benchmarks.support.small_machine import FAULTS, POSTGRES, SIDES, WORKERS

GOAL_MS, AIM_MS = 25, 10
"""The p99 outside faults, from when a message was due until a subscriber has it."""

IDLE_LIMIT = 256 * MIB

Kept = Mapping[str, Any]

_ALWAYS = ("minutes", "admitted before the load")
"""Rows of a side that was not measured to the end, too."""

_WRONG = ("lost", "doubled", "disordered", "gaps", "foreign")


def faults(kept: Kept) -> list[str]:
    """Return what fails the run: of Abide alone, because the peers do not promise what it does."""
    found = []
    abide = kept.get("abide")
    if abide is not None:
        if not abide["account"]:
            found.append("Abide was not measured to the end.")
        found += [f"Abide: {_sum(abide, what):,} {what}." for what in _WRONG if _sum(abide, what)]
        if abide["killed"]:
            found.append(f"The kernel killed {abide['killed']} processes for want of memory.")
        if abide["live"] < abide["load"]["subscribers"]:
            found.append(f"Abide admitted {abide['live']:,} subscribers.")
    idle = kept.get("idle", {})
    if "problem" in idle:
        found.append(f"idle: {idle['problem']}")
    elif idle and (idle["live"] < idle["subscribers"] or idle["rss"] > IDLE_LIMIT):
        found.append(f"idle: {idle['live']:,} live, in {_mib(idle['rss'])}.")
    return found


def as_markdown(kept: Kept) -> str:
    """Write the report."""
    sides = {name: kept[name] for name in SIDES if name in kept}
    parts = ["# A whole small machine"]
    facts: dict[str, str] = next((one["machine"] for one in kept.values() if "machine" in one), {})
    parts.append("\n".join(f"* {name}: {value}" for name, value in (facts | {"CPUs": _cpus(facts)}).items()))
    measured = {name: one for name, one in sides.items() if "account" in one}
    if measured:
        parts += [_heading(next(iter(measured.values()))), _table(measured), *_remarks(measured)]
    parts += [one["absent"] for one in sides.values() if "absent" in one]
    if "idle" in kept:
        parts += _idle(kept["idle"])
    parts += [
        "## What went wrong",
        _list(faults(kept) + _problems(measured)) or "Nothing: every message once, in order.",
    ]
    return "\n\n".join(parts) + "\n"


def _cpus(facts: Mapping[str, str]) -> str:
    return f"{facts.get('CPUs', '?').partition(':')[0]}, shared by server, database and load client"


def _heading(one: Kept) -> str:
    load = one["load"]
    return (
        f"## {load['subscribers']:,} subscribers on {load['channels']:,} channels, {load['rate']:g} messages/s\n\n"
        "Messages have 128 bytes. Half of the subscribers are WebSockets and half event streams, where the server has "
        f"those. Abide and FastAPI have {WORKERS} workers and PostgreSQL, nginx has one worker and no database. All "
        "of a server's processes and its database are in one memory group; the load client is outside, on these cores."
    )


def _table(sides: Kept) -> str:
    rows = [*_rows(sides)]
    head = ["", *(SIDES[name].title for name in sides)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rows(sides: Kept) -> list[list[str]]:
    def row(title: str, cell: Callable[[Kept], str]) -> list[str]:
        return [
            title,
            *(cell(one) if one["account"] or title in _ALWAYS else "-" for one in sides.values()),
        ]

    rows = [
        row("minutes", lambda one: f"{one['load']['minutes']:g}"),
        row("admitted before the load", lambda one: f"{one['live']:,}"),
        row("messages stored", lambda one: f"{one['account']['published']:,}"),
        row("pushes refused or without an answer", lambda one: f"{one['account']['refused']:,}"),
        row("pushes sent again under their key", lambda one: f"{one['account']['repeated']:,}"),
        row("deliveries expected", lambda one: f"{_sum(one, 'expected'):,}"),
        row("received", lambda one: f"{_sum(one, 'received'):,}"),
        row("**lost**", lambda one: f"{_sum(one, 'lost'):,}"),
        row("**doubled**", lambda one: f"{_sum(one, 'doubled'):,}"),
        row("out of order", lambda one: f"{_sum(one, 'disordered'):,}"),
        row("gaps told", lambda one: f"{_sum(one, 'gaps'):,}"),
        row("outside faults: p50 / p99 / p99.9, ms", lambda one: _times(one, 0, "latency_ms")),
        row("… of the push's answer", lambda one: _times(one, 0, "push_ms")),
    ]
    for number, fault in enumerate(FAULTS, 1):
        rows += [
            row(f"{fault}: until all are back, s", lambda one, f=fault: f"{one['fault_seconds'].get(f, 0):.1f}"),  # type: ignore[misc]
            row("… connections lost", lambda one, n=number: f"{one['account']['phases'][n]['drops']:,}"),  # type: ignore[misc]
            row("… without a connection: p50 / p99 / max, s", lambda one, n=number: _outage(one, n)),  # type: ignore[misc]
            row("… messages: p50 / p99 / p99.9, ms", lambda one, n=number: _times(one, n, "latency_ms")),  # type: ignore[misc]
        ]
    peak: dict[str, str] = {
        "memory that cannot be given up, peak": "needed",
        "… own memory of processes": "anon",
        "… shared memory": "shared",
        "… kernel": "kernel",
        "… buffers of TCP": "sockets",
        "page cache, peak": "cache",
        "all together, peak": "total",
        "RSS of the server's processes, peak": "rss",
    }
    rows += [row(title, lambda one, k=key: _mib(one["peaks"][k])) for title, key in peak.items()]  # type: ignore[misc]
    return [
        *rows,
        row("killed for want of memory", lambda one: str(one["killed"])),
        row("cores outside faults: server / PostgreSQL / client", _cores),
        row("database connections, most", lambda one: str(one["peaks"]["connections"])),
    ]


def _remarks(sides: Kept) -> list[str]:
    settings = ", ".join(f"`{name}={value}`" for name, value in POSTGRES.items())
    texts = [f"Memory of Abide's group: {sides[name]['limit']}." for name in sides if name == "abide"]
    texts.append(f"PostgreSQL is set up for its part of the memory: {settings}; fsync is on.")
    texts.append(
        "The rolling restart is SIGHUP to the first process. The Postgres restart is a fast one (SIGINT). In the storm "
        "all workers are killed with -9 at once, so that every connection is lost, and all subscribers come back at "
        "once, 2,000 handshakes under way. A latency is from when a message was due. A message belongs to a fault if "
        "it was due, or came, between the fault and two seconds after everybody was back. The peers are pushed to "
        "without keys and resume nothing: a push that is not answered well is not sent again, and not expected."
    )
    if "abide" in sides and sides["abide"]["account"]:
        p99 = sides["abide"]["account"]["phases"][0]["latency_ms"].get("p99", 0.0)
        met = "met" if p99 <= GOAL_MS else "missed"
        texts.append(f"Goal: p99 outside faults at most {GOAL_MS} ms, aim {AIM_MS}: {p99:.1f} ms, {met}.")
        said = [f"{count} x {what}" for what, count in sorted(sides["abide"]["logged"].items())]
        texts.append(f"Warnings and errors in Abide's log:\n\n{_list(said) or 'none.'}")
    return texts


def _idle(idle: Kept) -> list[str]:
    if "problem" in idle:
        return ["## Idle subscribers", f"Not measured: {idle['problem']}"]
    each = (idle["rss"] - idle["before"]) / max(idle["live"], 1) / 1024
    kernel = idle["kernel"] / max(idle["live"], 1) / 1024
    met = "met" if idle["rss"] <= IDLE_LIMIT and idle["live"] == idle["subscribers"] else "missed"
    fewer = f" The limit of open files leaves {idle['subscribers']:,} connections to one worker."
    return [
        f"## {idle['subscribers']:,} idle subscribers on `memory://`",
        "\n".join(
            [
                "| | |",
                "| --- | --- |",
                f"| live after the last ping | {idle['live']:,}, half of them event streams |",
                f"| until all were live | {idle['seconds']:.1f} s |",
                f"| RSS of all processes | {_mib(idle['rss'])} ({_mib(idle['before'])} without subscribers) |",
                f"| … for each subscriber | {each:.2f} KiB |",
                f"| kernel memory beside | {_mib(idle['kernel'])} and {_mib(idle['sockets'])} of buffers |",
                f"| … for each subscriber | {kernel:.2f} KiB |",
            ]
        ),
        f"Goal: RSS of all processes at most {_mib(IDLE_LIMIT)}: {met}. Counted by {idle['limit']}."
        + (fewer if idle["subscribers"] < idle["wanted"] else ""),
    ]


def _problems(sides: Kept) -> list[str]:
    texts = []
    for name, one in sides.items():
        texts += [f"{SIDES[name].title}: {problem}" for problem in one["problems"]]
        if name == "abide":
            texts += [f"{SIDES[name].title}: {text}" for text in one["account"].get("complaints", ())]
    return texts


def _sum(one: Kept, what: str) -> int:
    return sum(account[what] for account in one["account"].get("accounts", ()))


def _times(one: Kept, phase: int, what: str) -> str:
    times = one["account"]["phases"][phase][what]
    return " / ".join(f"{times[key]:,.1f}" for key in ("p50", "p99", "p99.9")) if times["count"] else "-"


def _outage(one: Kept, phase: int) -> str:
    times = one["account"]["phases"][phase]["outage_ms"]
    return " / ".join(f"{times[key] / 1000:.2f}" for key in ("p50", "p99", "max")) if times["count"] else "-"


def _cores(one: Kept) -> str:
    return " / ".join(f"{one['cores'].get(who, 0):.2f}" for who in ("server", "PostgreSQL", "client"))


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def _list(items: list[str]) -> str:
    return "\n".join(f"* {item}" for item in items)
