"""The load clients: ``fanclient.c``, compiled when it is needed, driven by commands; and how to compile another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers.machine import pinned
from tests.support.processes import launch

SOURCE = Path(__file__).with_name("fanclient.c")

ANSWER_SECONDS = 180.0
"""The longest that one command may take."""

_CLIENT_CORE = 1
_END_SECONDS = 10.0


class ClientError(RuntimeError):
    """The client could not be built, or found a fault; the text says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one command. Durations are in milliseconds: ``p50``, ``p99``, ``max``; empty without values."""

    messages: int
    deliveries: int
    seconds: float
    client_cpu: float
    """CPU seconds of the client: if near ``seconds``, the client was the bottleneck."""
    latency_ms: Mapping[str, float]
    """From when a message was due until a subscriber has it; of a handshake, from the connect."""
    last_ms: Mapping[str, float]
    """From when a message was due until the last subscriber has it."""
    push_ms: Mapping[str, float]
    """From when a message was due until its push is answered."""


@contextlib.contextmanager
def build(source: Path = SOURCE) -> Iterator[Path]:
    """Compile a client into a temporary folder. Raises :class:`ClientError`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        msg = "the load client is C: install a C compiler (on Debian and Ubuntu: apt install gcc libc6-dev)"
        raise ClientError(msg)
    with tempfile.TemporaryDirectory(prefix="abide-bench-") as folder:
        binary = Path(folder, source.stem)
        command = [compiler, "-O2", "-std=gnu11", "-o", str(binary), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603 — ours
        if done.returncode:
            msg = f"the load client does not compile:\n{done.stderr}"
            raise ClientError(msg)
        yield binary


class Client:
    """One run of the client, on its core. Its connections live as long as it does."""

    def __init__(self, binary: Path, settings: Mapping[str, object]) -> None:
        self._command = [str(binary), *(f"{name}={value}" for name, value in settings.items())]

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile("w+")
        with pinned(_CLIENT_CORE):
            pipe = subprocess.PIPE
            self._process = launch(
                self._command, os.environ, stdin=pipe, stdout=pipe, stderr=self._stderr, encoding="utf-8"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=_END_SECONDS)
        self._stderr.close()

    def connect(self, **settings: object) -> Answer:
        """Open the subscribers."""
        return self._ask("connect", settings)

    def run(self, **settings: object) -> Answer:
        """Publish, and wait until everything has been delivered."""
        return self._ask("run", settings)

    def _ask(self, command: str, settings: Mapping[str, object]) -> Answer:
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError(command)
        line = " ".join([command, *(f"{name}={value}" for name, value in settings.items())])
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        answer = self._process.stdout.readline() if ready else ""
        if not answer:
            why = self._complaint() if ready else f"no answer within {ANSWER_SECONDS:.0f} s"
            msg = f"{line}: {why}"
            raise ClientError(msg)
        return Answer(**json.loads(answer))

    def _complaint(self) -> str:
        self._process.wait(_END_SECONDS)
        self._stderr.seek(0)
        return self._stderr.read().strip() or f"ended with {self._process.returncode}"
