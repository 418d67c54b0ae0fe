"""Pushes to a channel without subscribers, beside other servers; see ``fanout.py`` for how it reports."""

from __future__ import annotations

import sys

from benchmarks.peers.comparison import Figures, Goal, Lab, Metric, Section, main
from benchmarks.peers.servers import Server


def pushes(lab: Lab) -> Section:
    """Measure pushes on sixteen connections, each of which waits for its answer before the next."""
    metrics = [Metric("rate", "pushes/s"), Metric("p50", "p50 ms", 2), Metric("p99", "p99 ms", 2)]
    title = "16 publishers without subscribers, messages of 128 bytes"
    section = Section("pushes", title, metrics, [Goal("rate", 6, "blog"), Goal("rate", 0.35, "nchan")])

    def one(server: Server) -> Figures:
        with lab.client(server) as client:
            client.connect(subs=0)
            client.run(seconds=0.3, pubs=16, lockstep=0)
            answer = client.run(seconds=lab.choose(3, 0.5), pubs=16, lockstep=0)
        return {
            "rate": answer.messages / answer.seconds,
            "p50": answer.push_ms["p50"],
            "p99": answer.push_ms["p99"],
        }

    return lab.measure(section, one)


if __name__ == "__main__":
    sys.exit(main("publish", "Publishing beside other servers", {"pushes": pushes}))
