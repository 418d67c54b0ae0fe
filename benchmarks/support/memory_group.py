"""A memory cgroup: a limit for some processes together, kernel memory counted, and what they use. Version 1 or 2."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MIB = 1024 * 1024

_ROOT = Path("/sys/fs/cgroup")
_V2 = 2
_SOCKETS = 32 * MIB
"""Version 1 has no limit for everything together: so much of it is for the buffers of TCP, which it counts apart.

With 10,000 subscribers they took 17 MiB at most. What is set aside for them and not used is missing elsewhere: on a
machine, or in a group of version 2, the processes would have it. Beyond this TCP has to wait, but no process is killed.
"""

_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that the processes of a group have in use, kernel memory included."""

    total: int
    anon: int
    """Their own memory, private or shared with each other: what cannot be given up."""
    cache: int
    """Pages of files, which the kernel gives up when memory is short."""
    shared: int
    """Shared memory: it is also in ``cache``, and cannot be given up."""
    kernel: int
    """Sockets, open files, page tables, stacks of threads."""
    sockets: int
    """Buffers of TCP."""

    @property
    def needed(self) -> int:
        """What the kernel cannot give up when memory is short, but for some of ``kernel``."""
        return self.anon + self.shared + self.kernel + self.sockets


class MemoryGroup:
    """A group with a limit in bytes, or none; removed with the context, when its processes have ended.

    Where no group can be made, ``absence`` says why, and the processes run without.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.absence: str | None = None
        self._folder: Path | None = None
        self._version, self._home = _find()

    def __enter__(self) -> Self:
        if self._home is None:
            self.absence = "no memory cgroup is mounted at /sys/fs/cgroup: nothing limits or counts the memory"
            return self
        folder = self._home / f"abide-machine-{os.getpid()}-{time.monotonic_ns()}"
        try:
            if self._version == _V2:
                (self._home / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
            folder.mkdir()
            self._folder = folder
            self._limit()
        except OSError as error:
            self._remove()
            self.absence = f"cannot make a memory cgroup in {self._home} ({error.strerror}): run as root to limit it"
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    @property
    def kind(self) -> str:
        """Say what limits the memory."""
        if self._folder is None:
            return f"no limit: {self.absence}"
        if self.limit is None:
            return f"cgroup v{self._version}, without a limit, for counting"
        if self._version == _V2:
            return f"cgroup v2, memory.max {self.limit // MIB} MiB, kernel memory and sockets included; no swap"
        own = (self.limit - _SOCKETS) // MIB
        return (
            f"cgroup v1, {own} MiB with kernel memory and {_SOCKETS // MIB} MiB for the buffers of TCP: "
            f"{self.limit // MIB} MiB in all"
        )

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Start processes in the group: those that this process starts in the context are born in it."""
        if self._folder is None:
            yield
            return
        home = _own(self._version)
        (self._folder / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        try:
            yield
        finally:
            (home / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def look(self) -> Usage | None:
        """Return what is in use now; None without a group."""
        if self._folder is None:
            return None
        stat = dict(line.split() for line in (self._folder / "memory.stat").read_text(encoding="ascii").splitlines())
        number = {name: int(value) for name, value in stat.items()}
        if self._version == _V2:
            total, sockets = self._read("memory.current"), number["sock"]
            # "kernel" has no sockets in it.
            return Usage(total, number["anon"], number["file"], number["shmem"], number["kernel"], sockets)
        sockets = self._read("memory.kmem.tcp.usage_in_bytes")
        return Usage(
            total=self._read("memory.usage_in_bytes") + sockets,
            anon=number["total_rss"],
            cache=number["total_cache"],
            shared=number.get("total_shmem", 0),
            kernel=self._read("memory.kmem.usage_in_bytes"),
            sockets=sockets,
        )

    def killed(self) -> int:
        """Return how many processes the kernel has killed because the limit was reached."""
        if self._folder is None:
            return 0
        name = "memory.events" if self._version == _V2 else "memory.oom_control"
        for line in (self._folder / name).read_text(encoding="ascii").splitlines():
            what, _, count = line.partition(" ")
            if what == "oom_kill":
                return int(count)
        return 0

    @property
    def _made(self) -> Path:
        if self._folder is None:
            raise FileNotFoundError(self.kind)
        return self._folder

    def _limit(self) -> None:
        if self._version == _V2:
            if self.limit is not None:
                self._write("memory.max", self.limit)
                with contextlib.suppress(OSError):  # there is none without swap
                    self._write("memory.swap.max", 0)
            return
        # The buffers of TCP are counted once they have a limit.
        self._write("memory.kmem.tcp.limit_in_bytes", _SOCKETS if self.limit is not None else 1 << 40)
        if self.limit is not None:
            self._write("memory.limit_in_bytes", self.limit - _SOCKETS)

    def _read(self, name: str) -> int:
        return int((self._made / name).read_text(encoding="ascii"))

    def _write(self, name: str, value: int) -> None:
        (self._made / name).write_text(str(value), encoding="ascii")

    def _remove(self) -> None:
        deadline = time.monotonic() + _END_SECONDS
        while self._folder is not None:
            try:
                self._folder.rmdir()
            except FileNotFoundError:
                self._folder = None
            except OSError:  # a process of it has not ended yet
                if time.monotonic() > deadline:
                    return
                time.sleep(0.1)
            else:
                self._folder = None


def _find() -> tuple[int, Path | None]:
    """Return the version of the cgroups that count memory, and the folder to make one in."""
    if (_ROOT / "memory" / "memory.usage_in_bytes").exists():
        return 1, _ROOT / "memory"
    controllers = _ROOT / "cgroup.controllers"
    if controllers.exists() and "memory" in controllers.read_text(encoding="ascii").split():
        return 2, _ROOT
    return 0, None


def _own(version: int) -> Path:
    """Return the folder of the group that this process is in."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if version == _V2 and not controllers:
            return _ROOT / path.lstrip("/")
        if version != _V2 and "memory" in controllers.split(","):
            return _ROOT / "memory" / path.lstrip("/")
    return _ROOT
