"""The cost of connections, beside other servers; see README.md here, and ``fanout.py`` for how it reports."""

from __future__ import annotations

import sys
import time
from itertools import pairwise

from benchmarks.peers import machine
from benchmarks.peers.comparison import OURS, Figures, Goal, Lab, Metric, Section, main
from benchmarks.peers.servers import Server

_KIB = 1024
_MIB = 1024 * 1024

_MESSAGE = 60_000
"""Bytes of a message that is published past stalled subscribers."""


def connects(lab: Lab) -> Section:
    """Measure how fast WebSockets are opened, a hundred handshakes under way at once."""
    count = lab.connections(2000, 300)
    metrics = [Metric("rate", "connects/s"), Metric("p99", "p99 of a handshake, ms", 1)]
    section = Section(
        "connects", f"Opening {count:,} WebSockets", metrics, [Goal("rate", 8, "blog"), Goal("rate", 0.4, "nchan")]
    )

    def one(server: Server) -> Figures:
        with lab.client(server) as client:
            answer = client.connect(subs=count)
        return {"rate": count / answer.seconds, "p99": answer.latency_ms["p99"]}

    return lab.measure(section, one)


def memory(lab: Lab) -> Section:
    """Measure the memory of idle connections after keepalive has pinged all of them."""
    few, many = lab.connections(5000, 500), lab.connections(19_000, 1500)
    metrics = [Metric("few", f"RSS KiB each at {few:,}", 1), Metric("many", f"RSS KiB each at {many:,}", 1)]
    section = Section("memory", "An idle WebSocket (1 round)", metrics)
    section.goals = [Goal("few", 6, at_least=False), Goal("many", 6, at_least=False)]
    section.notes.append("Measured half a minute after connecting: every server pings each 20 s.")

    def one(server: Server) -> Figures:
        before = server.rss()
        with lab.client(server) as first, lab.client(server) as second:
            first.connect(subs=few)
            time.sleep(lab.choose(30, 1))
            middle = server.rss()
            second.connect(subs=many - few)
            time.sleep(lab.choose(30, 1))
            return {"few": (middle - before) / few / _KIB, "many": (server.rss() - before) / many / _KIB}

    return lab.measure(section, one, rounds=1)


def sse(lab: Lab) -> Section:
    """Measure the memory of an idle event stream beside an idle WebSocket, in the same process."""
    count = lab.connections(5000, 500)
    metrics = [
        Metric("websocket", "WebSocket, RSS KiB each", 2),
        Metric("stream", "event stream, RSS KiB each", 2),
        Metric("factor", "stream / WebSocket", 2),
    ]
    section = Section("sse", f"{count:,} idle event streams beside {count:,} idle WebSockets (1 round)", metrics)
    section.goals = [Goal("factor", 1.5, at_least=False)]

    def one(server: Server) -> Figures:
        sizes = [server.rss()]
        with lab.client(server) as sockets, lab.client(server) as streams:
            sockets.connect(subs=count)
            time.sleep(lab.choose(30, 1))
            sizes.append(server.rss())
            streams.connect(subs=count, sse=1)
            time.sleep(lab.choose(30, 1))
            sizes.append(server.rss())
        websocket, stream = ((after - before) / count / _KIB for before, after in pairwise(sizes))
        return {"websocket": websocket, "stream": stream, "factor": stream / websocket}

    return lab.measure(section, one, rounds=1, only=(OURS,))


def stalled(lab: Lab) -> Section:
    """Measure the memory of stalled subscribers, in the server and in the kernel, while much is published."""
    volume = int(lab.choose(1_000_000_000, 60_000_000))
    metrics = [
        Metric("user", "RSS, MiB more", 1),
        Metric("kernel", "kernel memory for TCP, MiB more", 1),
        Metric("seconds", "seconds to publish", 1),
    ]
    title = f"100 stalled subscribers among 110, {volume // 1_000_000:,} MB published past them (1 round)"
    section = Section("stalled", title, metrics)
    section.notes.append("Kernel memory is that of the whole machine. `broadcast()` would keep all of it for each.")

    def one(server: Server) -> Figures:
        with lab.client(server) as client:
            client.connect(subs=110, stalled=100)
            client.run(seconds=60, count=4, pubs=4)
            user, kernel = server.rss(), machine.kernel_tcp_bytes()
            answer = client.run(seconds=120, count=volume // _MESSAGE, pubs=4, size=_MESSAGE)
            return {
                "user": (server.rss() - user) / _MIB,
                "kernel": (machine.kernel_tcp_bytes() - kernel) / _MIB,
                "seconds": answer.seconds,
            }

    return lab.measure(section, one, rounds=1, only=("abide", "blog", "nchan"))


if __name__ == "__main__":
    measurements = {"connects": connects, "memory": memory, "sse": sse, "stalled": stalled}
    sys.exit(main("connections", "Connections beside other servers", measurements))
