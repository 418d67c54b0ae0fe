"""The shared parts of the three comparisons: rounds, medians, ratios, and the report."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.client.fanclient import Client, ClientError, build
from benchmarks.peers import machine
from benchmarks.peers.servers import PEERS, Peer, PeerError, Server, present, serving

RESULTS = Path(__file__).parents[1] / "results"
OURS = "abide"

Figures = dict[str, float]


class Metric(NamedTuple):
    """One column of a table."""

    key: str
    title: str
    digits: int = 0


class Goal(NamedTuple):
    """The goal of a figure, as a multiple of a peer's; without a peer, an absolute goal."""

    key: str
    bound: float
    peer: str = ""
    at_least: bool = True


@dataclass(slots=True)
class Section:
    """One table of the report: a row for each server. ``rounds`` holds its figures, round by round; None is a fault."""

    name: str
    title: str
    metrics: Sequence[Metric]
    goals: Sequence[Goal] = ()
    notes: list[str] = field(default_factory=list)
    rounds: dict[str, list[Figures | None]] = field(default_factory=dict)

    def median(self, peer: str, key: str) -> float | None:
        """Return the median over the rounds."""
        values = [figures[key] for figures in self.rounds.get(peer, ()) if figures is not None]
        return statistics.median(values) if values else None

    def ratio(self, peer: str, key: str) -> float | None:
        """Return ours over a peer's: the median of each round's ratio."""
        pairs = zip(self.rounds.get(OURS, ()), self.rounds.get(peer, ()), strict=False)
        ratios = [ours[key] / theirs[key] for ours, theirs in pairs if ours and theirs and theirs[key]]
        return statistics.median(ratios) if ratios else None


@dataclass(slots=True)
class Lab:
    """The state that the measurements share. ``faults`` fail the run."""

    binary: Path
    rounds: int
    quick: bool
    most: int
    """How many connections one process may have."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def client(self, server: Server) -> Client:
        """Return a load client for a server."""
        return Client(self.binary, server.settings)

    def choose(self, value: float, quick: float) -> float:
        """Return one or the other."""
        return quick if self.quick else value

    def connections(self, count: int, quick: int) -> int:
        """Return how many connections to open: the requested number, or the most that the system allows."""
        wanted = quick if self.quick else count
        if wanted > self.most:
            self.note(f"The limit of open files leaves {self.most} connections where {wanted} were asked for.")
        return min(wanted, self.most)

    def note(self, sentence: str) -> None:
        """Add a remark to the report, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def measure(
        self,
        section: Section,
        one: Callable[[Server], Figures],
        *,
        rounds: int | None = None,
        only: Sequence[str] = tuple(PEERS),
    ) -> Section:
        """Fill a section. Each round starts every server afresh, in turn; every other round in reverse order."""
        peers, absent = present({name: PEERS[name] for name in only})
        for sentence in absent:
            self.note(sentence)
        for number in range(min(rounds or self.rounds, self.rounds)):
            for peer in peers[:: -1 if number % 2 else 1]:
                section.rounds.setdefault(peer.name, []).append(self._try(section, peer, one))
        return section

    def _try(self, section: Section, peer: Peer, one: Callable[[Server], Figures]) -> Figures | None:
        try:
            with serving(peer) as server:
                return one(server)
        except (ClientError, PeerError) as error:
            self.faults.append(f"{section.name}, {peer.title}: {error}")
            return None


Measurement = Callable[[Lab], Section]


def main(
    name: str,
    title: str,
    measurements: Mapping[str, Measurement],
    draw: Callable[[Sequence[Section]], str] | None = None,
) -> int:
    """Run the chosen measurements, print the report, and write that of a whole run. Return the exit code."""
    arguments = _parse(name, title, measurements)
    most = machine.raise_file_limit()
    with build() as binary:
        lab = Lab(binary, arguments.rounds or (1 if arguments.quick else 5), arguments.quick, most)
        sections = [_timed(lab, which, measurements[which]) for which in arguments.only or measurements]
    text = _markdown(title, lab, sections)
    print(text)
    if not (arguments.quick or arguments.only):
        _keep(name, text, lab, sections, draw)
    return 1 if lab.faults else 0


def _timed(lab: Lab, name: str, measurement: Measurement) -> Section:
    began = time.monotonic()
    section = measurement(lab)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return section


def _keep(
    name: str, text: str, lab: Lab, sections: Sequence[Section], draw: Callable[[Sequence[Section]], str] | None
) -> None:
    RESULTS.mkdir(exist_ok=True)
    report: dict[str, Any] = {
        "machine": machine.facts(),
        "rounds": lab.rounds,
        "sections": [asdict(section) for section in sections],
        "faults": lab.faults,
        "notes": lab.notes,
    }
    if draw is not None:
        (RESULTS / f"{name}.svg").write_text(draw(sections), encoding="utf-8")
        text += f"\n![The same as a plot]({name}.svg)\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _markdown(title: str, lab: Lab, sections: Sequence[Section]) -> str:
    how = (
        f"Medians of {lab.rounds} interleaved rounds, or as many as a table says; in brackets Abide's figure as a "
        "multiple of the server's, the median of each round's. Ratios carry over to other machines, figures do not."
    )
    parts = [f"# {title}", how, "\n".join(f"* {name}: {value}" for name, value in machine.facts().items())]
    for section in sections:
        parts += [f"## {section.title}", _table(section), *_goals(section), *section.notes]
    parts += [_list(lab.notes), "## What went wrong"]
    parts.append(_list(lab.faults) or "Nothing: every subscriber got every message once and in order.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(section: Section) -> str:
    lines = [["server", *(metric.title for metric in section.metrics)], ["---"] * (1 + len(section.metrics))]
    lines += [
        [PEERS[peer].title, *(_cell(section, peer, metric) for metric in section.metrics)] for peer in section.rounds
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(section: Section, peer: str, metric: Metric) -> str:
    median, ratio = section.median(peer, metric.key), section.ratio(peer, metric.key)
    if median is None:
        return "failed"
    text = f"{median:,.{metric.digits}f}"
    return text if ratio is None or peer == OURS else f"{text} (x {ratio:.2f})"


def _goals(section: Section) -> list[str]:
    return [_list([_goal(section, goal) for goal in section.goals])] if section.goals else []


def _goal(section: Section, goal: Goal) -> str:
    value = section.ratio(goal.peer, goal.key) if goal.peer else section.median(OURS, goal.key)
    title = next(metric.title for metric in section.metrics if metric.key == goal.key)
    bound = f"at {'least' if goal.at_least else 'most'} {goal.bound:g}"
    what = f"Goal: {title}, {bound}" + (f" x {PEERS[goal.peer].title}" if goal.peer else "")
    if value is None:
        return f"{what}: not measured."
    met = value >= goal.bound if goal.at_least else value <= goal.bound
    return f"{what}: {value:.2f}, {'met' if met else 'missed'}."


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"* {item}" for item in items)


def _parse(name: str, title: str, measurements: Mapping[str, Measurement]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=f"{title}.")
    parser.add_argument("--quick", action="store_true", help="a short run, for trying; writes no results")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (5; quick: 1)")
    parser.add_argument("--only", action="append", choices=measurements, help="this alone; may be repeated")
    return parser.parse_args()
