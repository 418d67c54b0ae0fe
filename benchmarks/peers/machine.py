"""The machine: its cores, its limit of open files, and the resources of its processes. Linux only."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PAGE = resource.getpagesize()
_TICKS = os.sysconf("SC_CLK_TCK")
RESERVED_FILES = 200
"""Open files of a server or a client that are no connections of subscribers."""
_PACKAGES = ("uvicorn", "uvloop", "fastapi", "broadcaster", "websockets", "litestar")


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run processes started in the context on this core only, or on any core if the machine has fewer."""
    before = os.sched_getaffinity(0)
    if core in before:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Raise the limit of open files as far as it goes; return how many connections one process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - RESERVED_FILES


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
            found += map(int, children)
    return found


def resident(pids: Iterable[int]) -> int:
    """Return the bytes of memory that processes have in RAM."""
    return sum(int(_words(f"/proc/{pid}/statm")[1]) * _PAGE for pid in pids)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used, in user space and in the kernel."""
    return sum(sum(map(int, _stat(pid)[11:13])) for pid in pids) / _TICKS


def cpu_of_all(pid: int) -> float:
    """Return the CPU time of a process and its descendants, with that of children that have ended."""
    seconds = 0.0
    for one in family(pid):
        with contextlib.suppress(OSError):  # it may end meanwhile: then its parent has its time
            seconds += sum(map(int, _stat(one)[11:15])) / _TICKS
    return seconds


def kernel_tcp_bytes() -> int:
    """Return the bytes that the kernel holds for TCP sockets: all of this machine's."""
    for line in Path("/proc/net/sockstat").read_text(encoding="ascii").splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * _PAGE
    return 0


def facts() -> dict[str, str]:
    """Return the facts that the figures depend on, and nothing that identifies the machine."""
    return {
        "CPUs": f"{os.cpu_count()}: the server on one, the client on another",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": ", ".join([platform.python_version(), *_versions()]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _words(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").split()
