"""Programs of others that the tests run: found on the machine, and read line by line."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Self

import pytest

from tests.support import warm
from tests.support.processes import ROOT, kill, launch

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
    """One run of a program, whose lines can be waited for; ends with the context. A warm Python runs ours.

    ``errors`` are the lines on stderr where ``apart`` holds; else they are among the ``lines``.
    """

    def __init__(
        self,
        *command: str,
        apart: bool = False,
        folder: Path = ROOT,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        pipe, joined = subprocess.PIPE, subprocess.STDOUT
        self._process = (
            warm.start(command, environment)
            if apart and folder == ROOT
            else launch(
                command,
                environment,
                stdout=pipe,
                stderr=pipe if apart else joined,
                encoding="utf-8",
                folder=folder,
            )
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._readers = [threading.Thread(target=self._read, daemon=True)]
        self.errors: list[str] = []
        if apart:
            self._readers.append(threading.Thread(target=self._read_errors, daemon=True))
        for reader in self._readers:
            reader.start()

    def line(self) -> str | None:
        """Return the next line; None after the last one."""
        return self._lines.get(timeout=PATIENCE)

    def lines(self, count: int) -> list[str | None]:
        """Return so many of the next lines."""
        return [self.line() for _ in range(count)]

    def until(self, line: str) -> list[str]:
        """Return the lines before the one that is ``line``."""
        before: list[str] = []
        while (got := self.line()) != line:
            assert got is not None, f"ended after {before}"
            before.append(got)
        return before

    def interrupt(self) -> int:
        """Do what Ctrl-C does, and return the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code once it has ended, and all that it wrote was read."""
        code = self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        kill(self._process)
        for reader in self._readers:
            reader.join()

    def _read(self) -> None:
        for line in _lines_of(self._process.stdout):
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        self.errors.extend(_lines_of(self._process.stderr))


def _lines_of(stream: IO[str] | None) -> Iterator[str]:
    assert stream is not None
    with stream as lines:
        for line in lines:
            yield line.rstrip("\n")
