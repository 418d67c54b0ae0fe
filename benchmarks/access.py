"""What tokens cost: pushes beside pushes with a key, and handshakes beside handshakes without. See README.md here.

Run it with ``python -m benchmarks.access``. It prints its report, and exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from app.access.auth_settings import TokenSettings
from app.access.tokens import sign
from benchmarks.client.fanclient import Client, build
from benchmarks.peers.servers import KEY, PEERS, Place, serving

LEAST = 0.8
"""The goals: with a token at least this much of the rate without."""

_SECRET = "s" * 32
_CHANNELS = """\
backend: memory://
auth: {keys: "${PUSH_KEYS}", tokens: {secret: %s}}
defaults: {publish: [key, token], subscribe: %s}
channels:
  "bench.{number}": {}
"""
_TOKENS = 5000


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.access", description="What tokens cost.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (5)")
    rounds = parser.parse_args().rounds
    with build() as binary, tempfile.TemporaryDirectory(prefix="abide-bench-") as folder:
        tokens = Path(folder, "tokens")
        tokens.write_text("".join(f"{_token(number)}\n" for number in range(_TOKENS)), encoding="ascii")
        pushes = [(_pushes(binary, KEY), _pushes(binary, _token(0))) for _ in range(rounds)]
        connects = [
            (_connects(binary, "anyone", {}), _connects(binary, "token", {"tokens": tokens})) for _ in range(rounds)
        ]
    met = [_report("pushes/s with a key, with a token", pushes), _report("connects/s without, with tokens", connects)]
    return int(not all(met))


def _token(number: int) -> str:
    now = int(time.time())
    claims = {"sub": str(number), "iat": now, "exp": now + 3600, "publish": ["bench.*"], "subscribe": ["bench.*"]}
    return sign(TokenSettings(secrets=(_SECRET.encode(),)), claims)


def _pushes(binary: Path, credential: str) -> float:
    settings = {"header": f"Authorization: Bearer {credential}"}
    with _client(binary, "anyone", settings) as client:
        client.connect(subs=0)
        client.run(seconds=0.3, pubs=16, lockstep=0)
        answer = client.run(seconds=2, pubs=16, lockstep=0)
    return answer.messages / answer.seconds


def _connects(binary: Path, subscribe: str, settings: Mapping[str, object]) -> float:
    with _client(binary, subscribe, settings) as client:
        return _TOKENS / client.connect(subs=_TOKENS).seconds


@contextlib.contextmanager
def _client(binary: Path, subscribe: str, settings: Mapping[str, object]) -> Iterator[Client]:
    """Start a server with this policy, and a load client for it."""
    ours = PEERS["abide"]

    def environment(place: Place) -> dict[str, str]:
        variables = ours.environment(place)
        Path(variables["CHANNELS_CONFIG"]).write_text(_CHANNELS % (_SECRET, subscribe), encoding="utf-8")
        return variables

    peer = replace(ours, environment=environment)
    with serving(peer) as server, Client(binary, {**server.settings, **settings}) as client:
        yield client


def _report(title: str, rounds: list[tuple[float, float]]) -> bool:
    ratio = statistics.median(after / before for before, after in rounds)
    before, after = (statistics.median(figures) for figures in zip(*rounds, strict=True))
    is_met = ratio >= LEAST
    print(f"{title}: {before:,.0f}, {after:,.0f}; x {ratio:.2f} (goal {LEAST}: {'met' if is_met else 'missed'})")
    return is_met


if __name__ == "__main__":
    sys.exit(main())
