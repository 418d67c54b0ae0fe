"""The client of subscribers that resume: ``followers.c``, driven by commands, each answered with one line of JSON."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.client.fanclient import ClientError
from tests.support.processes import kill, launch

SOURCE = Path(__file__).with_name("followers.c")

Answer = dict[str, Any]
"""The numbers that the client prints; durations are in milliseconds."""

_ANSWER_SECONDS = 30.0


class Followers:
    """One run of the client. Its connections live as long as it does."""

    def __init__(self, binary: Path, settings: Mapping[str, object]) -> None:
        self._command = [str(binary), *(f"{name}={value}" for name, value in settings.items())]

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self._process = launch(
            self._command, os.environ, stdin=pipe, stdout=pipe, stderr=self._stderr, encoding="utf-8"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kill(self._process)
        self._process.communicate()
        self._stderr.close()

    def connect(self, seconds: float) -> Answer:
        """Open the subscribers; return when all are live, or none more has come for so long."""
        return self._ask("connect", 4 * seconds, patience=seconds)

    def publish(self, rate: float) -> Answer:
        """Begin to publish so many messages a second."""
        return self._ask("publish", rate=rate)

    def phase(self, number: int) -> Answer:
        """Say what happens from now on: 0 nothing, else a fault."""
        return self._ask("phase", phase=number)

    def look(self) -> Answer:
        """Return how things are."""
        return self._ask("look")

    def end(self, seconds: float) -> Answer:
        """Stop publishing; return the account when all have everything, or nothing has come for so long."""
        return self._ask("end", 4 * seconds, patience=seconds)

    def _ask(self, command: str, seconds: float = 0, **settings: object) -> Answer:
        line = " ".join([command, *(f"{name}={value}" for name, value in settings.items())])
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ValueError(line)
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise ClientError(self._complaint(line)) from None
        ready, _, _ = select.select([stdout], [], [], seconds + _ANSWER_SECONDS)
        if not ready:
            msg = f"{line}: no answer within {seconds + _ANSWER_SECONDS:.0f} s"
            raise ClientError(msg)
        if not (answer := stdout.readline()):
            raise ClientError(self._complaint(line))
        parsed: Answer = json.loads(answer)
        return parsed

    def _complaint(self, line: str) -> str:
        self._process.wait(_ANSWER_SECONDS)
        self._stderr.seek(0)
        return f"{line}: {self._stderr.read().strip() or f'ended with {self._process.returncode}'}"
