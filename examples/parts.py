"""The programs that an example starts. All of them end with it, even when it is killed."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_SECONDS, END_SECONDS = 20.0, 5.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Part:
    """A program in a process group of its own. ``tend`` starts it again, ``stop`` ends it with the signal ``last``."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        account: tuple[int, int] | tuple[None, None] = (None, None),
        last: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._command, self._environment, self._account, self._last = command, environment, account, last
        self._start()

    def tend(self) -> None:
        """Start it again if it has died, at most once a second."""
        if self._process.poll() is not None and time.monotonic() - self._began > 1:
            self._kill()  # the workers of a master that was killed
            self._start()

    def wait(self, is_ready: Callable[[], bool]) -> None:
        """Return when it is ready; raise RuntimeError if it ends, or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                msg = f"{self._command[0]} did not start"
                raise RuntimeError(msg)
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, and kill what is left of it after some seconds."""
        self._process.send_signal(self._last)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._kill()

    def _start(self) -> None:
        self._began = time.monotonic()
        user, group = self._account
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT if user is None else "/",
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if group is None else [],
            preexec_fn=lambda: end_with_parent(self._last),  # noqa: PLW1509 — an example starts them before any thread
        )

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def end_with_parent(number: signal.Signals) -> None:
    """Have the system send this process a signal when the one that started it has ended. Only Linux can."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def answers(port: int, path: str) -> bool:
    """Return whether a GET is answered with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    return False


def free_port() -> int:
    """Return a free port of 127.0.0.1, below those that systems give to outgoing connections: it stays free."""
    while True:
        port = 12_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
