"""A warm Python: it has imported what servers and commands need, and forks for each, which then starts in no time.

Most of what a start costs is imports. They are the same for each server: those of our dependencies, and those of ours
that a server makes before it has read its settings. The rest of ``app`` each server imports anew, in its own
environment. ``python -m tests.support.warm`` is the process that forks. A byte to its stdin asks for a server. With it
come five files: one for the answer, which has the server's pid and, when it has ended, its exit code; the task; one
that the server reads; and two that it writes to.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from tests.support.processes import ROOT, launch

IMPORTED = (
    "asyncpg",
    "fastapi",
    "gunicorn.app.wsgiapp",
    "idna",
    "opentelemetry.propagate",
    "orjson",
    "structlog",
    "uvicorn_worker",
    "websockets.asyncio.client",
    "yaml",
    "app.cli",
    "app.bus.postgres",
    "app.core.delivery.hub",
    "app.server.worker",
)
"""What servers need. Not prometheus_client, nor what imports it: it reads the environment when it is imported."""

FILES = 5
"""How many come with a request."""

ABIDE = str(ROOT / "bin" / "abide")


class WarmProcess:
    """A server that a warm Python has forked: what is used of :class:`subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], report: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None
        self.pid = int(report.readline())
        self._arguments = arguments
        self._report = report

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended; raise :class:`subprocess.TimeoutExpired` after so many seconds."""
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._report, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
            with self._report:
                self.returncode = int(self._report.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class WarmPython:
    """The process that forks; it ends with the object or the interpreter. It has ``imported`` modules."""

    def __init__(self, *imported: str) -> None:
        self._asking, asked = socket.socketpair()
        with asked:
            command = [sys.executable, "-m", __name__, *imported]
            process = launch(command, os.environ, stdin=asked.fileno(), stdout=None, stderr=None)
        self._finalizer = weakref.finalize(self, _end, self._asking, process)

    def launch(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, given: str = "", folder: Path = ROOT
    ) -> WarmProcess:
        """Start ``python -m`` with arguments, in a process group of its own; what is given to it is in its stdin."""
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as task,
            tempfile.TemporaryFile("w+", encoding="utf-8") as stdin,
        ):
            json.dump([arguments, dict(environment), str(folder)], task)
            stdin.write(given)
            for file in (task, stdin):
                file.seek(0)
            pipes = [os.pipe() for _ in range(FILES - 2)]
            report, *output = (theirs for _, theirs in pipes)
            socket.send_fds(self._asking, [b"\0"], [report, task.fileno(), stdin.fileno(), *output])
        for _, theirs in pipes:
            os.close(theirs)
        files = (os.fdopen(ours, encoding="utf-8", errors="backslashreplace") for ours, _ in pipes)
        return WarmProcess(arguments, *files)


@functools.cache
def warm_python() -> WarmPython:
    """Return the one of this process, for what servers need."""
    return WarmPython(*IMPORTED)


def start(
    command: Sequence[str], environment: Mapping[str, str], *, given: str = "", cold: bool = False
) -> subprocess.Popen[str] | WarmProcess:
    """Start a program in a process group of its own, with pipes for stdout and stderr.

    A warm Python runs ``bin/abide`` and what ``python -m`` runs. With ``cold``, or variables that Python reads at its
    start and this one was not started with, it is a process of its own from the beginning, as it is for users; so are
    other programs. Nothing can be ``given`` to those.
    """
    program, *arguments = command
    cold = cold or any(
        name.startswith("PYTHON") and value != os.environ.get(name) for name, value in environment.items()
    )
    if not cold and program == ABIDE:
        return warm_python().launch(["app", *arguments], {**environment, "PYTHONPATH": str(ROOT)}, given=given)
    if not cold and program == sys.executable and arguments[0] == "-m":
        return warm_python().launch(arguments[1:], environment, given=given)
    assert not given
    return launch(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def run(*arguments: str, environment: Mapping[str, str], given: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``bin/abide`` and return what it wrote and its exit code."""
    return finished(start((ABIDE, *arguments), environment, given=given))


def finished(process: subprocess.Popen[str] | WarmProcess) -> subprocess.CompletedProcess[str]:
    """Return what a process wrote and its exit code, once it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as stdout, process.stderr as stderr, ThreadPoolExecutor() as readers:
        said = readers.submit(stderr.read)
        printed = stdout.read()
        return subprocess.CompletedProcess((), process.wait(), printed, said.result())


def _end(asking: socket.socket, process: subprocess.Popen[bytes]) -> None:
    asking.close()
    process.wait()


def _forked(imported: Iterable[str]) -> list[int]:
    """Fork for each request; return its files in what was forked, and exit at the end of the requests."""
    for name in imported:
        importlib.import_module(name)
    gc.freeze()  # a fork that looked through all of it at its end would copy it: five times what most of them cost
    looking = select.poll()
    reports: dict[int, int] = {}
    with socket.socket(fileno=os.dup(0)) as asked, contextlib.closing(_wakened_by_ends()) as ends:
        looking.register(asked, select.POLLIN)
        looking.register(ends, select.POLLIN)
        while True:
            ready = {number for number, _ in looking.poll()}
            if ends.fileno() in ready:
                ends.recv(4096)
                _report_ends(reports)
            if asked.fileno() in ready:
                request, files, *_ = socket.recv_fds(asked, 1, FILES)
                if not request:
                    sys.exit()
                if not (pid := os.fork()):
                    return files
                for number in files[1:]:
                    os.close(number)
                reports[pid] = files[0]
                os.write(files[0], b"%d\n" % pid)


def _wakened_by_ends() -> socket.socket:
    """Return a socket that can be read when a child has ended."""
    ends, wake = socket.socketpair()
    os.set_blocking(wake.fileno(), False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.detach())
    return ends


def _report_ends(reports: dict[int, int]) -> None:
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            break
        report = reports.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it
            os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(report)


def _become_server(files: list[int]) -> None:
    """Be ``python -m``, as if this process had been started for that alone."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _, task, *standard = files
    with os.fdopen(task, encoding="utf-8") as file:
        arguments, environment, folder = json.load(file)
    os.chdir(folder)
    for number, theirs in enumerate(standard):
        os.dup2(theirs, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _become_server(_forked(sys.argv[1:]))
