"""What 2,000 channels cost: a push to the last beside one to the first, and a reload of all. See README.md here.

Run it with ``python -m benchmarks.many_channels``. It prints its report, and exits with 1 if a goal is missed.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Sequence

import httpx

from tests.support.metrics import settled
from tests.support.server import Server

MANY = 2000
MOST_RATIO = 1.1
"""The goals: a push to the last channel takes at most so many times as long as one to the first,"""

MOST_SECONDS = 0.05
"""and a reload does not make the event loop later than this, but for what the machine does at rest."""

_ROUNDS = 2000
_RELOADS = 5
_WITHIN = f'abide_loop_delay_seconds_bucket{{le="{MOST_SECONDS}"}}'
_COUNT = "abide_loop_delay_seconds_count"


def main() -> int:
    """Measure, print, and return the exit code."""
    with Server(channels=_channels(0)) as server, httpx.Client(base_url=server.url) as http:
        first, last = _pushes(http, [f"life0.of{number}" for number in (0, MANY - 1)])
        late = [_late(server)]
        seconds = [_reload(server, http, life) for life in range(1, _RELOADS + 1)]
        late.append(_late(server))
        time.sleep(sum(seconds))
        late.append(_late(server))
    ratio = last / first
    reloading, resting = (after - before for before, after in itertools.pairwise(late))
    print(f"{MANY:,} channels; a push to the first {first * 1e6:.0f} us, to the last {last * 1e6:.0f}: x {ratio:.2f}")
    print(
        f"{_RELOADS} reloads of all, {statistics.median(seconds):.2f} s each: the loop was more than {MOST_SECONDS} s"
    )
    print(f"late {reloading:.0f} times, and {resting:.0f} times in as long at rest")
    is_met = ratio <= MOST_RATIO and reloading <= resting
    print(f"goals: x {MOST_RATIO}, no more often than at rest: {'met' if is_met else 'missed'}")
    return int(not is_met)


def _late(server: Server) -> float:
    """Return how often the event loop has been late."""
    counted = settled(server.url)
    return counted[_COUNT] - counted[_WITHIN]


def _channels(life: int) -> str:
    return "channels:\n" + "".join(f"  life{life}.of{number}: {{publish: anyone}}\n" for number in range(MANY))


def _pushes(http: httpx.Client, channels: Sequence[str]) -> list[float]:
    """Return the median seconds of a push to each channel, in turns."""
    seconds: dict[str, list[float]] = {channel: [] for channel in channels}
    for channel in itertools.islice(itertools.cycle(channels), _ROUNDS):
        began = time.perf_counter()
        http.post(f"/push/{channel}", json=1).raise_for_status()
        seconds[channel].append(time.perf_counter() - began)
    return [statistics.median(one) for one in seconds.values()]


def _reload(server: Server, http: httpx.Client, life: int) -> float:
    """Replace all channels by others; return the seconds until one of them takes a push."""
    began = time.monotonic()
    server.write_channels(_channels(life))
    while http.post(f"/push/life{life}.of0", json=1).is_error:
        time.sleep(0.02)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
