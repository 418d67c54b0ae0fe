"""The tables of docs/operations/capacity.md, calculated from the inputs at its top.

Run ``python -m benchmarks.capacity`` to write them into the page after an input has changed here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "operations" / "capacity.md"

MEMORY_SHARE, CPU_SHARE = 0.8, 0.5
"""How much of a machine is planned for; the rest is for bursts, reconnects and what else runs there."""

MOST_CONNECTIONS = 100_000
"""``limits.connections`` of a worker, by default."""

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class Input:
    """A figure that was measured, and the command that measures it again."""

    value: float
    unit: str
    what: str
    source: str


INPUTS = {
    "M_first": Input(50, "MiB", "gunicorn's first process", "`benchmarks.machine`, own memory at rest"),
    "M_worker": Input(22, "MiB", "what each worker adds to it", "the same, by the difference of 1, 2 and 4 workers"),
    "K_user": Input(3.7, "KiB", "a connection in its worker", "`benchmarks.machine --only idle`"),
    "K_kernel": Input(3.8, "KiB", "a connection in the kernel: socket, file, epoll", "the same"),
    "T_delivery": Input(5.3, "µs", "CPU time of a delivery", "`benchmarks.fanout --only speed`, one at a time"),
    "T_burst": Input(
        0.66, "µs", "the same, of sixteen that are published together", "`benchmarks.fanout --only speed`"
    ),
    "T_push": Input(19, "µs", "CPU time of a push in its worker", "`benchmarks.publish`: 1 s / pushes a second"),
    "T_hear": Input(
        46, "µs", "CPU time of a push in each other worker, on Postgres", "`benchmarks.bus --only hearing`"
    ),
    "T_connect": Input(37, "µs", "CPU time of a connect", "`benchmarks.connections --only connects`"),
    "P_push": Input(7, "µs", "CPU time of a push in PostgreSQL", "`benchmarks.bus --only hearing`"),
    "P_hear": Input(37, "µs", "the same, for each worker that hears it", "`benchmarks.bus --only hearing`"),
}


@dataclass(frozen=True, slots=True)
class Size:
    """A machine of a platform: ``cores`` of CPU that it may use all the time, and memory in MiB."""

    name: str
    cores: float
    memory: int

    @property
    def workers(self) -> int:
        """One for each core."""
        return max(1, int(self.cores))


SIZES = {
    "Fly": [
        Size("shared-cpu-1x, 256 MB", 1 / 16, 256),
        Size("shared-cpu-1x, 512 MB", 1 / 16, 512),
        Size("shared-cpu-2x, 1 GB", 2 / 16, 1024),
        Size("shared-cpu-4x, 2 GB", 4 / 16, 2048),
        Size("performance-1x, 2 GB", 1, 2048),
        Size("performance-2x, 4 GB", 2, 4096),
        Size("performance-4x, 8 GB", 4, 8192),
        Size("performance-8x, 16 GB", 8, 16384),
    ],
    "Render": [
        Size("starter", 0.5, 512),
        Size("standard", 1, 2048),
        Size("pro", 2, 4096),
        Size("pro plus", 4, 8192),
    ],
    "Railway": [
        Size("at most 512 MB of a trial", 1, 512),
        Size("Hobby: up to 8 cores, 8 GB", 8, 8192),
        Size("Pro: up to 32 cores, 32 GB", 32, 32768),
    ],
}


def value(name: str) -> float:
    """Return an input's figure, in bytes or in seconds."""
    one = INPUTS[name]
    return one.value * {"KiB": _KIB, "MiB": _MIB, "µs": 1e-6}[one.unit]


def connections(size: Size) -> int:
    """Return how many connections have room, while a rolling restart has one worker more, as full as the others."""
    room = MEMORY_SHARE * size.memory * _MIB - value("M_first") - (size.workers + 1) * value("M_worker")
    each = (size.workers + 1) / size.workers * value("K_user") + value("K_kernel")
    return max(0, min(int(room / each), MOST_CONNECTIONS * size.workers))


def deliveries(size: Size) -> float:
    """Return the deliveries a second, with no pushes to speak of."""
    return CPU_SHARE * size.cores / value("T_delivery")


def pushes(size: Size) -> float:
    """Return the pushes a second on a Postgres elsewhere, with no deliveries to speak of."""
    return CPU_SHARE * size.cores / (value("T_push") + (size.workers - 1) * value("T_hear"))


def back(count: float, cores: float) -> float:
    """Return the seconds in which so many come back, with all of the cores."""
    return count * value("T_connect") / cores


def inputs_table() -> str:
    """Return the table of the inputs."""
    rows = [[f"`{name}`", f"{one.value:g} {one.unit}", one.what, one.source] for name, one in INPUTS.items()]
    return _table(["input", "figure", "what it is", "measured by"], rows)


def sizes_table(platform: str) -> str:
    """Return the table of a platform."""
    rows = [
        [
            size.name,
            f"{size.cores:g}",
            str(size.workers),
            _round(connections(size)),
            _round(deliveries(size)),
            _round(pushes(size)),
            f"{back(connections(size), size.cores):,.0f} s",
        ]
        for size in SIZES[platform]
    ]
    head = ["size", "cores", "workers", "connections", "deliveries/s", "or pushes/s", "all come back"]
    return _table(head, rows)


def growth_table() -> str:
    """Return the table of the way to a million connections, with a message a minute to each from one source."""
    rows = []
    for count in (10_000, 100_000, 1_000_000):
        per_second = count / 60
        cores = per_second * value("T_delivery") / CPU_SHARE
        workers = max(-(-count // MOST_CONNECTIONS), int(cores) + 1, 1)
        rows.append(
            [
                f"{count:,}",
                f"{count * value('K_user') / _GIB:.2f} GiB",
                f"{count * value('K_kernel') / _GIB:.2f} GiB",
                f"{count:,} files",
                str(workers),
                f"{back(count, workers):.0f} s",
                str(workers * 5),
            ]
        )
    head = ["connections", "in workers", "in kernels", "open", "workers", "all come back", "connections to Postgres"]
    return _table(head, rows)


def postgres_table() -> str:
    """Return the table of what every worker hears: one push a minute from each connection."""
    rows = []
    for count in (10_000, 100_000, 1_000_000):
        rate = count / 60
        workers = max(1, -(-count // MOST_CONNECTIONS))
        hearing = rate * value("T_hear")
        database = rate * (value("P_push") + workers * value("P_hear"))
        rows.append(
            [f"{count:,}", _round(rate), str(workers), f"{hearing:.2f} of a core in each", f"{database:.2f} cores"]
        )
    return _table(["connections", "pushes/s", "workers", "to hear them all", "PostgreSQL"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "inputs": inputs_table,
    "fly": lambda: sizes_table("Fly"),
    "render": lambda: sizes_table("Render"),
    "railway": lambda: sizes_table("Railway"),
    "growth": growth_table,
    "postgres": postgres_table,
}


def calculated(page: str) -> str:
    """Return the page with its tables calculated anew: each is between two comments that name it."""
    for name, table in TABLES.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            msg = f"{PAGE}: the comments around the table {name!r} are missing"
            raise ValueError(msg)
        page = f"{before}{begin}\n{table()}\n\n{end}{after}"
    return page


def _round(number: float) -> str:
    """Write a number with two digits that count."""
    if number <= 0:
        return "0"
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return f"{int(number / unit) * unit:,}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> int:
    """Write the tables into the page."""
    PAGE.write_text(calculated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
