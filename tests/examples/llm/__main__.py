"""Reloads and kills of ``examples/llm``, at random: ``python -m tests.examples.llm --times 200``."""

from __future__ import annotations

import argparse
import random
import time

from tests.support.chromium import Chromium
from tests.support.example import Example
from tests.support.llm_runs import disturb, tabs


def main() -> None:
    """Reload and kill, and print what was done; a text that is not the publisher's ends this with an exception."""
    parser = argparse.ArgumentParser(prog="python -m tests.examples.llm", description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="how many reloads and kills (200)")
    parser.add_argument("--pages", type=int, default=8, help="how many pages show runs at the same time (8)")
    parser.add_argument("--pause", type=float, default=0.4, help="seconds between two of them, on average (0.4)")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of what is done; random")  # noqa: S311
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)  # noqa: T201
    choice, began = random.Random(options.seed), time.monotonic()  # noqa: S311 — nothing is guarded
    runs = [f"{options.seed}-{number}" for number in range(options.pages)]
    with Chromium() as chromium, Example("llm") as example, tabs(chromium, example, runs) as shown:
        done = disturb(example, shown, times=options.times, pause=options.pause, choice=choice)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
    print(f"all texts are the publisher's ({counts}; {time.monotonic() - began:.0f} s)")  # noqa: T201


if __name__ == "__main__":
    main()
