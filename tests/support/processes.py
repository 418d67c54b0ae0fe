"""Processes: started as a group, waited for until they answer, and ended to the last one.

Tests, benchmarks and load tests start with these whatever goes on, but for PostgreSQL, which has an account of its own
(``tests/support/postgres``), and locust, which has the terminal that it is started from.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

ROOT = Path(__file__).parents[2]

START_SECONDS = 20.0
END_SECONDS = 20.0

_ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.02

_PORTS = range(12_000, 32_000)

Output = int | IO[bytes] | IO[str]


class Process(Protocol):
    """What is used of :class:`subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended; raise :class:`subprocess.TimeoutExpired` after so many seconds."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal, unless it has ended."""


def free_port() -> int:
    """Return a free TCP port, which no other process of this user is given before all others have had their turn.

    It is below those that systems give to outgoing connections, so it stays free while a server restarts. A client that
    retries a closed port of the other kind can even connect to itself.
    """
    with Path(tempfile.gettempdir(), f"abide-ports-{os.getuid()}").open("a+", encoding="ascii") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        turn.seek(0)
        port = int(turn.read() or secrets.choice(_PORTS))
        while True:
            port = port + 1 if port + 1 in _PORTS else _PORTS[0]
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                break
        turn.truncate(0)
        turn.write(f"{port}")
    return port


def launch(  # noqa: PLR0913 — a process has that many
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: Output | None,
    stderr: Output | None,
    stdin: Output = subprocess.DEVNULL,
    encoding: str | None = None,
    folder: Path = ROOT,
) -> subprocess.Popen[Any]:
    """Start a program in a process group of its own, apart from Ctrl-C; pipes are text where there is an encoding."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        encoding=encoding,
        errors="backslashreplace" if encoding else None,
    )


def status(port: int, path: str) -> int | None:
    """Return the status that a GET is answered with; None without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait_answer(
    process: Process, port: int, path: str, *, seconds: float = START_SECONDS, any_status: bool = False
) -> bool:
    """Return True when the server answers 200; False when it has ended, or has not answered within ``seconds``.

    With ``any_status``, whatever it answers will do.
    """
    deadline = time.monotonic() + seconds
    while (answer := status(port, path)) is None or not (any_status or answer == HTTPStatus.OK):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


class InFolder:
    """A program that runs in a temporary folder of its own, which goes with it when the context ends."""

    def __init__(self, prefix: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=prefix)
        self.folder = Path(self._folder.name)

    def run(self, command: Sequence[str], environment: Mapping[str, str], serves: Callable[[], bool]) -> None:
        """Start it, and return when it ``serves``; fail with its log when it ends, or takes too long."""
        log = self.folder / "log"
        with log.open("wb") as output:
            self._process = launch(command, environment, stdout=output, stderr=output)
        deadline = time.monotonic() + START_SECONDS
        while not serves():
            assert self._process.poll() is None, f"it ended instead of starting: {log.read_text()}"
            assert time.monotonic() < deadline, f"it did not start in time: {log.read_text()}"
            time.sleep(_POLL_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end(self._process)
        self._folder.cleanup()


def end(process: Process, *, seconds: float = END_SECONDS) -> None:
    """Send SIGTERM, wait up to ``seconds``, and kill what is left of the group."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill(process)


def kill(process: Process) -> None:
    """Kill whatever is left of the group; harmless when nothing is."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
