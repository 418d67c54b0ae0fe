"""The server as its users run it: a process group on a port of its own, and what it logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, NoReturn, Self

from tests.support import processes, warm
from tests.support.processes import free_port

CHANNELS = """\
backend: memory://
channels:
  news: {publish: anyone}
  events: {publish: anyone, client_publish: true}
  "chat.{room}": {publish: anyone}
"""
"""The channels.yaml of a server that is given no other."""

SERVE = (warm.ABIDE, "serve")

LogLine = dict[str, Any]

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class ServerError(AssertionError):
    """The server did not do what was waited for; the text ends with its log."""


class Server:
    """One run of the server; starts on entering the context, and ends with all its processes on leaving it.

    ``channels`` is the text of channels.yaml; ``env`` is added to an environment that has nothing
    of the caller's but paths; ``command`` is what to run. A warm Python runs it, unless it is to be ``cold``:
    see :func:`tests.support.warm.start`.
    """

    running: ClassVar[list[Server]] = []
    """Those that have been started and not stopped, for the reports of failed tests."""

    def __init__(
        self,
        *,
        channels: str = CHANNELS,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = SERVE,
        ready_path: str = "/health/live",
        cold: bool = False,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="abide-")
        self.channels_path = Path(self._directory.name, "channels.yaml")
        self.write_channels(channels)
        self.port = free_port()
        self._env = self._base_env() | dict(env or {})
        self._command, self._ready_path = tuple(command), ready_path
        self._cold = cold
        self._changed = threading.Condition()
        self._readers: list[threading.Thread] = []
        self.log: list[LogLine] = []
        """The lines on stdout that are JSON objects."""
        self.unparsed: list[str] = []
        """The lines on stdout that are not."""
        self.stderr: list[str] = []
        """The lines on stderr."""

    @property
    def url(self) -> str:
        """``http://host:port``, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """``ws://host:port``, without a slash at the end."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of gunicorn's master; valid from :meth:`start` on."""
        return self._process.pid

    def write_channels(self, text: str) -> None:
        """Replace the content of channels.yaml."""
        self.channels_path.write_text(text, encoding="utf-8")

    def start(self, *, timeout: float = 20) -> Self:
        """Start it and return when it answers; raise :class:`ServerError` after ``timeout`` seconds or if it ends."""
        self.launch()
        if not processes.wait_answer(self._process, self.port, self._ready_path, seconds=timeout):
            if self._process.poll() is not None:
                self._fail(f"the server ended with {self._process.returncode} instead of starting")
            self._fail(f"the server did not answer within {timeout} s")
        return self

    def launch(self) -> None:
        """Start it without waiting, for one that is expected to refuse."""
        self._process = warm.start(self._command, self._env, cold=self._cold)
        self.running.append(self)
        for stream, take in ((self._process.stdout, self._take_stdout), (self._process.stderr, self._take_stderr)):
            thread = threading.Thread(target=self._read, args=(stream, take), daemon=True)
            thread.start()
            self._readers.append(thread)

    def wait(self, *, timeout: float = 20) -> int:
        """Return the exit code once it has ended by itself; raise :class:`ServerError` after ``timeout`` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._fail(f"the server did not end within {timeout} s")
        finally:
            self.kill()
        return self._process.wait()

    def stop(self, *, timeout: float = 20) -> int:
        """Send SIGTERM to the master, wait for the end and return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout=timeout)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the master alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End whatever is left of its process group at once; harmless when nothing is."""
        processes.kill(self._process)
        for reader in self._readers:
            reader.join()
        if self in self.running:
            self.running.remove(self)
        self._directory.cleanup()

    def wait_log(self, predicate: Callable[[LogLine], bool], *, timeout: float = 10) -> LogLine:
        """Return the first line of the whole log that ``predicate`` accepts, waiting for it if need be."""
        deadline = time.monotonic() + timeout
        looked_at = 0
        with self._changed:
            while True:
                for line in self.log[looked_at:]:
                    if predicate(line):
                        return line
                looked_at = len(self.log)
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    break
        return self._fail(f"no such line in the log within {timeout} s")

    def text(self, *, last: int = 200) -> str:
        """Return the newest lines of all that it wrote, for a person to read."""
        lines = [json.dumps(line) for line in self.log] + self.unparsed + self.stderr
        return "\n".join(lines[-last:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self in self.running:
            self.kill()

    def __repr__(self) -> str:
        return f"<Server port={self.port} {'running' if self in self.running else 'not running'}>"

    def _base_env(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return inherited | {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "CHANNELS_CONFIG": str(self.channels_path),
            "LOG_FORMAT": "json",
            "DRAIN_SECONDS": "0",
        }

    def _read(self, stream: IO[str], take: Callable[[str], None]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    take(line.rstrip("\n"))
                    self._changed.notify_all()

    def _take_stdout(self, line: str) -> None:
        try:
            parsed = json.loads(line)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            self.log.append(parsed)
        else:
            self.unparsed.append(line)

    def _take_stderr(self, line: str) -> None:
        self.stderr.append(line)

    def _fail(self, what: str) -> NoReturn:
        self.kill()
        msg = f"{what}; its log:\n{self.text()}"
        raise ServerError(msg)
