"""``python -m tests.fuzz``: a fuzz of WebSockets for as many frames as wanted; 1 if anything is wrong."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.support.fuzz.client import WrongError
from tests.support.fuzz.run import CHANNELS, fuzz, replay
from tests.support.server import Server


def main() -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, help="without it, one by chance, which is printed")
    parser.add_argument("--connection", type=int, help="of the seed, this connection alone")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    say(f"seed {seed}")
    with Server(channels=CHANNELS) as server:
        try:
            if options.connection is not None:
                say(f"closed with {replay(server, seed, options.connection)}")
            else:
                say(str(fuzz(server, seed, options.frames, is_long=True, say=say)))
        except WrongError as error:
            say(f"{error}\nThe server's log:\n{server.text(last=30)}")
            return 1
    return 0


def say(text: str) -> None:
    """Print at once: a run takes minutes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
