"""A program at a terminal of its own: what it shows, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

from tests.support import processes

_CONTROLLING = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Makes the terminal that of the session, so that Ctrl-C reaches all that the program has started."""

_COLOUR = re.compile("\x1b\\[[0-9;]*m")


class Terminal:
    """One run of a program on a pseudo-terminal; it ends with the context."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm", **variables}
        command = [sys.executable, "-c", _CONTROLLING, *command]
        self.process = processes.launch(command, environment, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.raw = ""
        """All that was shown, colours included."""
        self._changed = threading.Condition()
        self._closed, self._closing = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def lines(self) -> list[str]:
        """The lines that were shown, without colours."""
        return _COLOUR.sub("", self.raw).replace("\r\n", "\n").splitlines()

    def until(self, pattern: str, *, seconds: float = 20) -> str:
        """Return the first whole line that a pattern is found in, waiting for it."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                whole = self.lines if self.raw.endswith("\n") else self.lines[:-1]
                if found := next((line for line in whole if re.search(pattern, line)), None):
                    return found
                assert self._changed.wait(deadline - time.monotonic()), f"no line has {pattern!r} in {self.raw!r}"

    def press_ctrl_c(self) -> None:
        """Send what the key sends."""
        os.write(self._ours, b"\x03")

    def close(self) -> None:
        """Close the window: the terminal is gone."""
        os.close(self._closing)
        self._reader.join()
        os.close(self._ours)
        os.close(self._closed)
        self._ours = -1

    def wait(self, *, seconds: float = 20) -> int:
        """Return the exit code once it has ended and all that it wrote was read."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        processes.kill(self.process)
        if self._ours >= 0:
            self.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: all have closed it
            while self._ours in select.select([self._ours, self._closed], [], [])[0]:
                data = os.read(self._ours, 65536)
                with self._changed:
                    self.raw += data.decode(errors="replace")
                    self._changed.notify_all()
