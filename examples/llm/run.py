"""Starts what the example consists of, starts again whatever dies, and ends it all on Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from examples.start import check_port
from tests.support import processes
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT

ABIDE = str(ROOT / "bin" / "abide")
LOOK_SECONDS = 0.1
"""The pause between two looks at whether everything runs."""
END_SECONDS = 5.0


class Part:
    """A program that runs for as long as the example does."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = command, environment
        self._start()

    def tend(self) -> None:
        """Start it again if it has died, at most once a second."""
        if self.process.poll() is not None and time.monotonic() - self._began > 1:
            processes.kill(self.process)  # the workers of a master that was killed
            self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        self.process = processes.launch(self._command, self._environment, stdout=subprocess.DEVNULL, stderr=None)


def main() -> int:
    """Serve the page on PORT until a signal comes; return the exit code."""
    port = check_port("llm")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with contextlib.suppress(KeyboardInterrupt), database() as (url, postgres):
        abide_port = processes.free_port()
        environment = os.environ | {
            "DATABASE_URL": url,
            "ABIDE_URL": f"http://127.0.0.1:{abide_port}",
            "RUN_KEY": secrets.token_urlsafe(),
            "PORT": str(port),
            "CHANNELS_CONFIG": str(Path(__file__).parent / "channels.yaml"),
        }
        if subprocess.run([ABIDE, "migrate"], env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            return 1  # it has said why
        serve(environment, abide_port, postgres)
    return 0


def serve(environment: Mapping[str, str], abide_port: int, postgres: PostgresServer | None) -> None:
    """Run everything until a signal comes, and end it."""
    of_abide = {**environment, "HOST": "127.0.0.1", "PORT": str(abide_port), "DRAIN_SECONDS": "0"}
    parts = list[Part]()
    try:
        parts.append(Part([ABIDE, "serve"], of_abide))
        processes.wait_answer(parts[0].process, abide_port, "/health/ready")
        parts += [Part([sys.executable, "-m", f"examples.llm.{name}"], environment) for name in ("writer", "pages")]
        processes.wait_answer(parts[2].process, int(environment["PORT"]), "/")
        print(f"a run: http://127.0.0.1:{environment['PORT']}/ · console: {environment['ABIDE_URL']}/", flush=True)
        while True:
            for part in parts:
                part.tend()
            if postgres is not None and not postgres.is_running():
                with contextlib.suppress(RuntimeError):  # what it left behind may still be about to end
                    postgres.crash()
                    postgres.start()
            time.sleep(LOOK_SECONDS)
    finally:
        for part in parts:
            part.process.terminate()
        for part in parts:
            processes.end(part.process, seconds=END_SECONDS)


@contextlib.contextmanager
def database() -> Iterator[tuple[str, PostgresServer | None]]:
    """Return the address of a database: DATABASE_URL, or a PostgreSQL of our own, which ends with the example."""
    if url := os.environ.get("DATABASE_URL"):
        yield url, None
    else:
        with PostgresServer() as postgres:
            yield postgres.url(), postgres


def end(*_: int | FrameType | None) -> None:
    """Begin to end everything; a second signal changes nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
