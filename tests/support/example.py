"""An example as its users run it: by make, on a port of its own, with all that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import processes
from tests.support.postgres import children
from tests.support.processes import free_port

START_SECONDS = 40.0


class Example:
    """One run of ``make -C examples/NAME run``; starts on entering the context, and ends on leaving it."""

    def __init__(self, name: str, env: Mapping[str, str] | None = None, *, port: int | None = None) -> None:
        self._env = dict(env or {})
        self._command = ("make", "-C", f"examples/{name}", "run")
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self._output = tempfile.TemporaryFile()
        self._process: subprocess.Popen[bytes] = processes.launch(
            self._command,
            environment | self._env | {"PORT": str(self.port)},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        if not processes.wait_answer(self._process, self.port, "/", seconds=START_SECONDS):
            msg = f"the example does not answer: {self.output().decode()}"
            self.__exit__(None, None, None)
            raise AssertionError(msg)
        return self

    def output(self) -> bytes:
        """Return what it has written so far."""
        return os.pread(self._output.fileno(), 1_000_000, 0)

    def pids(self, words: str = "") -> list[int]:
        """Return the ids of the processes that it started, or of those whose command has these words."""
        found, new = list[int](), [self._process.pid]
        while new:
            new = [child for pid in new for child in children(pid)]
            found += new
        return [pid for pid in found if words in command_of(pid)]

    def end(self, number: signal.Signals) -> None:
        """Send a signal as a terminal does, to all of the group that make runs in, and wait for make to end."""
        os.killpg(self._process.pid, number)
        self._process.wait(processes.END_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM to make alone, as a supervisor does, and wait for it to end."""
        self._process.terminate()
        self._process.wait(processes.END_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGTERM)
        self._output.close()


def command_of(pid: int) -> str:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
