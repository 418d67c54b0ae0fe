"""How much memory there is: that of the machine, or the limit of the container (Linux, cgroup v1 and v2)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Of v2 and v1; a file that holds no number sets no limit."""


def memory_limit(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many bytes this process may use, together with all that runs beside it.

    ``groups`` is where the kernel shows its control groups, and ``own`` says which ones this process is in.
    """
    limits = [sys.maxsize]
    with suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for folder in _folders(groups, own):
        for name in _LIMITS:
            with suppress(OSError, ValueError):
                limits.append(int((folder / name).read_text(encoding="ascii")))
    return min(limits)


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups, and of those around them, whose limits hold as well."""
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = groups / "memory" if controllers else groups
        folder = top / path.lstrip("/")
        yield from (folder, *folder.parents[: len(folder.parts) - len(top.parts)])
