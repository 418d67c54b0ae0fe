"""One message to many subscribers, beside other servers; see README.md here.

A whole run prints its report and writes it to ``results``; one that is ``--quick`` or has
``--only`` some of the measurements prints it alone. The exit code is 1 when a subscriber did not
get every message once and in order, or when a measurement failed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.client.fanclient import Client
from benchmarks.peers.comparison import OURS, Figures, Goal, Lab, Metric, Section, main
from benchmarks.peers.plot import Panel, Points, svg
from benchmarks.peers.servers import PEERS, Server

_SUBSCRIBERS = (10, 100, 1000, 10_000)
_CHANNELS = (1, 100, 10_000)
_SOME = ("abide", "blog", "nchan")
_ITEMS = 100
"""Messages of an array, each to another channel."""


def speed(lab: Lab) -> Section:
    """Measure a thousand subscribers: one message at a time, sixteen at a time, and twenty a second."""
    subscribers = lab.connections(1000, 200)
    metrics = [
        Metric("single", "one at a time, deliveries/s"),
        Metric("single_cpu", "server CPU µs each", 2),
        Metric("burst", "16 publishers at once, deliveries/s"),
        Metric("burst_cpu", "server CPU µs each", 2),
        Metric("p50", "20 messages/s: p50 ms", 2),
        Metric("p99", "p99 ms", 2),
    ]
    goals = [
        Goal("single", 4.5, "blog"),
        Goal("single", 1.3, "nchan"),
        Goal("burst", 15, "blog"),
        Goal("burst", 6, "nchan"),
        Goal("p99", 1.2, "nchan", at_least=False),
    ]

    def one(server: Server) -> Figures:
        seconds = lab.choose(3, 0.5)
        with lab.client(server) as client:
            client.connect(subs=subscribers)
            client.run(seconds=0.3)
            times = [server.cpu()]
            single = client.run(seconds=seconds)
            times.append(server.cpu())
            burst = client.run(seconds=seconds, pubs=16)
            times.append(server.cpu())
            paced = client.run(seconds=lab.choose(5, 1), pubs=4, rate=20)
        return {
            "single": single.deliveries / single.seconds,
            "single_cpu": (times[1] - times[0]) * 1e6 / single.deliveries,
            "burst": burst.deliveries / burst.seconds,
            "burst_cpu": (times[2] - times[1]) * 1e6 / burst.deliveries,
            "p50": paced.latency_ms["p50"],
            "p99": paced.latency_ms["p99"],
            "client_cpu": single.client_cpu / single.seconds,
        }

    return lab.measure(Section("speed", f"{subscribers:,} subscribers, messages of 128 bytes", metrics, goals), one)


def sse(lab: Lab) -> Section:
    """Measure one message at a time to a thousand event streams beside a thousand WebSockets, of one server."""
    subscribers = lab.connections(1000, 200)
    metrics = [
        Metric("websocket", "WebSockets, deliveries/s"),
        Metric("websocket_cpu", "server CPU µs each", 2),
        Metric("stream", "event streams, deliveries/s"),
        Metric("stream_cpu", "server CPU µs each", 2),
        Metric("factor", "WebSockets / streams, deliveries/s", 2),
        Metric("factor_cpu", "streams / WebSockets, CPU", 2),
    ]
    section = Section("sse", f"One message at a time to {subscribers:,} event streams beside WebSockets", metrics)
    section.goals = [Goal("factor", 1.5, at_least=False), Goal("factor_cpu", 1.5, at_least=False)]

    def speed(server: Server, **how: int) -> tuple[float, float]:
        with lab.client(server) as client:
            client.connect(subs=subscribers, **how)
            client.run(seconds=0.3)
            before = server.cpu()
            answer = client.run(seconds=lab.choose(3, 0.5))
            return answer.deliveries / answer.seconds, (server.cpu() - before) * 1e6 / answer.deliveries

    def one(server: Server) -> Figures:
        websocket, websocket_cpu = speed(server)
        stream, stream_cpu = speed(server, sse=1)
        return {
            "websocket": websocket,
            "websocket_cpu": websocket_cpu,
            "stream": stream,
            "stream_cpu": stream_cpu,
            "factor": websocket / stream,
            "factor_cpu": stream_cpu / websocket_cpu,
        }

    return lab.measure(section, one, only=(OURS,))


def everyone(lab: Lab) -> Section:
    """Measure how long one message takes until the last of very many subscribers has it."""
    subscribers = lab.connections(19_000, 2000)
    metrics = [Metric("last", "until the last has it, ms", 1), Metric("p50", "until half of them have it, ms", 1)]
    section = Section("everyone", f"One message to {subscribers:,} subscribers (at most 3 rounds)", metrics)
    section.goals = [Goal("last", 1.3, "nchan", at_least=False)]

    def one(server: Server) -> Figures:
        with lab.client(server) as client:
            client.connect(subs=subscribers)
            client.run(seconds=60, count=2)
            answer = client.run(seconds=60, count=int(lab.choose(11, 3)))
        return {"last": answer.last_ms["p50"], "p50": answer.latency_ms["p50"]}

    return lab.measure(section, one, rounds=3)


def stalled(lab: Lab) -> Section:
    """Measure what one stalled subscriber in a hundred does to the others."""
    subscribers = lab.connections(1000, 200)
    metrics = [
        Metric("without", "p99 ms without them", 2),
        Metric("with", "p99 ms with them", 2),
        Metric("factor", "with / without", 2),
    ]
    title = f"1 % of {subscribers:,} subscribers stalled, 20 messages/s to the others (at most 3 rounds)"
    section = Section("stalled", title, metrics)
    section.notes.append("Before, 6 MB were published to all, more than the kernel buffers for the stalled ones.")

    def p99(client: Client, number: int) -> float:
        client.connect(subs=subscribers, stalled=number)
        client.run(seconds=60, count=int(lab.choose(100, 20)), size=60_000)
        return client.run(seconds=lab.choose(5, 1), pubs=4, rate=20, size=128).latency_ms["p99"]

    def one(server: Server) -> Figures:
        with lab.client(server) as client:
            without = p99(client, 0)
        with lab.client(server) as client:
            hindered = p99(client, subscribers // 100)
        return {"without": without, "with": hindered, "factor": hindered / without}

    return lab.measure(section, one, rounds=3, only=_SOME)


def growth(lab: Lab) -> Section:
    """Measure the server's CPU time per delivery for growing numbers of subscribers and live channels."""
    metrics = [Metric(f"s{count}", f"{count:,} subscribers", 2) for count in _SUBSCRIBERS]
    metrics += [Metric(f"c{count}", f"1,000 subscribers, {count:,} channels", 2) for count in _CHANNELS]
    section = Section("growth", "Server CPU µs per delivery, push included (at most 3 rounds)", metrics)
    section.notes.append("Each channel but the first has one subscriber and no messages.")

    def cost(server: Server, subscribers: int, channels: int) -> float:
        with lab.client(server) as client:
            client.connect(subs=lab.connections(subscribers, subscribers), idle=channels - 1)
            client.run(seconds=0.3)
            before = server.cpu()
            answer = client.run(seconds=lab.choose(2, 0.5))
            return (server.cpu() - before) * 1e6 / answer.deliveries

    def one(server: Server) -> Figures:
        figures = {f"s{count}": cost(server, count, 1) for count in _SUBSCRIBERS}
        return figures | {f"c{count}": cost(server, 1000, count) for count in _CHANNELS}

    return lab.measure(section, one, rounds=3, only=_SOME)


def small(lab: Lab) -> Section:
    """Measure very many channels with two subscribers each: each push has a message, or an array for many channels."""
    channels = lab.connections(20_000, 2000) // 2
    metrics = [
        Metric("arrays", f"arrays of {_ITEMS}, deliveries/s"),
        Metric("arrays_cpu", "server CPU µs each", 2),
        Metric("single", "one message a push, deliveries/s"),
        Metric("single_cpu", "server CPU µs each", 2),
    ]
    goals = [Goal("arrays", 1, "nchan"), Goal("single", 0.6, "nchan")]
    section = Section("small", f"{channels:,} channels of 2 subscribers each, published to in turn", metrics, goals)
    section.notes.append(
        "16 publishers. nchan has no arrays: its figure beside ours is that of one message a push. "
        "The next message of a channel is sent when both of its subscribers have the one before."
    )

    def speed(client: Client, server: Server, **how: int) -> tuple[float, float]:
        client.run(seconds=lab.choose(1, 0.3), **how)
        before = server.cpu()
        answer = client.run(seconds=lab.choose(4, 1), **how)
        return answer.deliveries / answer.seconds, (server.cpu() - before) * 1e6 / answer.deliveries

    def one(server: Server) -> Figures:
        with lab.client(server) as client:
            client.connect(subs=2 * channels, channels=channels, pubs=16, lockstep=0)
            single, single_cpu = speed(client, server)
            arrays, arrays_cpu = (
                speed(client, server, items=_ITEMS) if server.peer.name == OURS else (single, single_cpu)
            )
        return {"arrays": arrays, "arrays_cpu": arrays_cpu, "single": single, "single_cpu": single_cpu}

    return lab.measure(section, one, only=(OURS, "nchan"))


def draw(sections: Sequence[Section]) -> str:
    """Return the plot of :func:`growth`."""
    section = next(section for section in sections if section.name == "growth")

    def line(peer: str, prefix: str, counts: Sequence[int]) -> Points:
        found = [(count, section.median(peer, f"{prefix}{count}")) for count in counts]
        return [(count, value) for count, value in found if value]

    def panel(title: str, prefix: str, counts: Sequence[int]) -> Panel:
        lines = {PEERS[peer].title: line(peer, prefix, counts) for peer in section.rounds}
        return Panel("Server CPU µs per delivery", title, {name: points for name, points in lines.items() if points})

    return svg([panel("subscribers", "s", _SUBSCRIBERS), panel("live channels, 1,000 subscribers", "c", _CHANNELS)])


if __name__ == "__main__":
    measurements = {
        "speed": speed,
        "sse": sse,
        "everyone": everyone,
        "stalled": stalled,
        "growth": growth,
        "small": small,
    }
    sys.exit(main("fanout", "Fan-out beside other servers", measurements, draw))
