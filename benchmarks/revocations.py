"""What 100,000 revoked subjects cost a worker: memory, and the time of a check. See README.md here.

Run it with ``python -m benchmarks.revocations``. It prints its report, and exits with 1 if a goal is missed.
"""

from __future__ import annotations

import os
import sys
import time
import timeit
import uuid
from pathlib import Path

from app.access import entries
from app.access.entries import Revocation
from app.access.revocations import Revocations
from app.core.channel import ACCESS
from app.core.message import Batch, Message, Position

SUBJECTS = 100_000
MOST_MIB = 32.0
MOST_MICROSECONDS = 1.0

_BATCH = 1000
_CHECKS = 200_000


def main() -> int:
    """Measure, print, and return the exit code."""
    revocations = Revocations(lambda: 86400.0)
    revocations.start(Position("e", 0))
    subjects = [str(uuid.uuid4()) for _ in range(SUBJECTS)]
    now = time.time()
    before = _resident()
    began = time.perf_counter()
    for first in range(0, SUBJECTS, _BATCH):
        revocations.deliver(_batch(first, subjects[first : first + _BATCH], now))
    seconds = time.perf_counter() - began
    mib = (_resident() - before) / 2**20
    print(f"{len(revocations)} revoked subjects: {mib:.1f} MiB, {seconds / SUBJECTS * 1e6:.1f} us each to take in")
    slowest = max(_time(revocations, case) for case in _cases(subjects[SUBJECTS // 2], now))
    is_missed = mib > MOST_MIB or slowest > MOST_MICROSECONDS
    print(f"goals: {MOST_MIB:.0f} MiB, {MOST_MICROSECONDS:.0f} us: {'missed' if is_missed else 'met'}")
    return int(is_missed)


def _batch(first: int, subjects: list[str], now: float) -> Batch:
    data = [entries.record(Revocation(subject, now)).data for subject in subjects]
    messages = [Message(first + 1 + index, int(now * 1000), text) for index, text in enumerate(data)]
    return Batch(ACCESS, "e", tuple(messages))


def _cases(revoked: str, now: float) -> list[tuple[str, str | None, str | None, float | None]]:
    stranger, token = str(uuid.uuid4()), str(uuid.uuid4())
    return [
        ("a subject that was not revoked", stranger, token, now - 1),
        ("a revoked subject, an older token", revoked, token, now - 1),
        ("a revoked subject, a newer token", revoked, token, now + 1),
        ("a revoked subject, a token without iat", revoked, None, None),
        ("no subject", None, None, None),
    ]


def _time(revocations: Revocations, case: tuple[str, str | None, str | None, float | None]) -> float:
    """Return and print the microseconds of one check, the least of five rounds."""
    name, sub, jti, issued = case
    rounds = timeit.repeat(lambda: revocations.is_revoked(sub, jti, issued), number=_CHECKS, repeat=5)
    microseconds = min(rounds) / _CHECKS * 1e6
    print(f"  {microseconds:.2f} us  {name}")
    return microseconds


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
