"""Programs of others that the tests run: found on the machine, and read line by line."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
from types import TracebackType
from typing import NoReturn, Self

import pytest

PATIENCE = 30.0
"""Seconds after which a line is given up: clients pause longer with each failure."""


def find_or_skip(*names: str) -> str:
    """Return the path of the first program that is installed; without one skip the test, but fail it with CI=true."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        skip(f"not installed: {' or '.join(names)}")
    return found


def skip(reason: str) -> NoReturn:
    """Skip the test, but fail it with CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Program:
    """One run of a program, whose lines on stdout can be waited for; ends with the context."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self) -> str | None:
        """Return the next line; None after the last one."""
        return self._lines.get(timeout=PATIENCE)

    def until(self, line: str) -> list[str]:
        """Return the lines before the one that is ``line``."""
        before: list[str] = []
        while (got := self.line()) != line:
            assert got is not None, f"ended after {before}"
            before.append(got)
        return before

    def wait(self) -> int:
        """Return the exit code once it has ended by itself."""
        return self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)
