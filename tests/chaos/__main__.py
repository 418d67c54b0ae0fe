"""``make chaos``: faults under load with many subscribers and seeds, one line for each seed; 1 if anything is wrong.

Nothing is lost by what happens in odd seeds. In even ones the log is rewritten, too.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.peers.machine import raise_file_limit
from tests.support.chaos import Load, place, play
from tests.support.crowd import Tally
from tests.support.worlds import WORLDS


def main() -> int:
    """Play the seeds and return the exit code; the report of each that went wrong stands below its line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--backend", choices=WORLDS, default="postgres", help="the engine that is broken (postgres)")
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=20, help="from 1 to this one")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--seconds", type=float, default=15, help="how long things break, for each seed")
    parser.add_argument("--rate", type=float, default=8, help="messages a second in each of the channels")
    options = parser.parse_args()
    world = WORLDS[options.backend]
    raise_file_limit()
    load = Load(options.subscribers, options.seconds, options.rate, settling=60)
    seeds = range(1, options.seeds + 1) if options.seed is None else [options.seed]
    tallies: list[Tally] = []
    wrong = 0
    for seed in seeds:
        with place(world) as it:
            played = play(it, seed, load, losses=seed % 2 == 0 and bool(world.losses))
            say(played.line)
            if played.wrong:
                say(f"{played.report}\nThe server's log:\n{it.server.text(last=50)}")
        tallies.append(played.tally)
        wrong += len(played.wrong)
    total = Tally(*map(sum, zip(*tallies, strict=True)))
    say(f"{len(tallies)} seeds on {world.name} with {load.subscribers:,} subscribers: {wrong} wrong; {total}")
    return 1 if wrong else 0


def say(text: str) -> None:
    """Print at once: a seed takes half a minute."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
