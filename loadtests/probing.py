"""The probe as locust sees it: a process that it starts, listens to and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from tests.support.processes import launch

END_SECONDS = 5.0


class Probe:
    """The handle of one probe. ``latencies`` has all that it reported, in milliseconds; ``heard`` gets each of them."""

    def __init__(self, heard: Callable[[float], None]) -> None:
        self.latencies: list[float] = []
        self._heard = heard
        self._process: subprocess.Popen[str] | None = None

    def start(self, url: str, channels: Sequence[str]) -> None:
        """Start it. It ends when its stdin closes, so it never outlives this process."""
        self.latencies = []
        command = [sys.executable, "-m", "loadtests.probe", url, *channels]
        pipe = subprocess.PIPE
        # Apart from Ctrl-C, which is for us: we end it when all is received.
        self._process = launch(command, os.environ, stdin=pipe, stdout=pipe, stderr=None, encoding="ascii")
        self._reader = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """End the probe and read its last reports; do nothing if there is no probe."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None  # noqa: S101 — a pipe
        process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 — a pipe
        with process.stdout as lines:
            for line in lines:
                for latency in json.loads(line):
                    self.latencies.append(latency)
                    self._heard(latency)
