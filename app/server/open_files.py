"""How many connections a worker may have open at a time: each is an open file."""

from __future__ import annotations

import resource
import sys

_OTHERS = 100
"""Files that are no connections of clients: listeners, the backend's connections, the log, numbers, configuration."""


def raise_limit() -> None:
    """Allow this process as many open files as the system lets it have without a privilege."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """Return how many connections leave files for the rest: at least half of the process's limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(soft // 2, soft - _OTHERS)
