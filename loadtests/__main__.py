"""``make load``: starts a server unless one is given, runs locust on it and reports. The exit code is locust's.

Unknown options and the environment go to locust: a ``LOCUST_…`` variable overrides a value that is set here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.server import allow_sockets, database, serve
from tests.support.processes import ROOT

REPORTS = Path(__file__).parent / "reports"
RAMP_SECONDS = 10
MOST_A_SECOND = 100  # locust warns of more
WRONG_ARGUMENTS = 2
"""The exit code of a command that was not understood, locust's too: it has measured nothing."""

_REACHED_SECONDS = 10


def main() -> int:
    """Run it and return the exit code."""
    options, arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that every started process ends too
    REPORTS.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        url = options.host or stack.enter_context(serve(stack.enter_context(database()), REPORTS / "server.log"))
        return _load(_environment(url, options.users, options.seconds), arguments)


def _environment(url: str, users: int, seconds: int) -> dict[str, str]:
    defaults = {
        "LOCUST_HOST": url,
        "LOCUST_USERS": str(users),
        "LOCUST_SPAWN_RATE": str(min(MOST_A_SECOND, max(1, users // RAMP_SECONDS))),
        "LOCUST_RUN_TIME": f"{seconds}s",
        "LOCUST_HEADLESS": "true",
        "LOCUST_ONLY_SUMMARY": "true",
        "LOCUST_HTML": str(REPORTS / "report.html"),
        "LOCUST_SUMMARY": str(REPORTS / "summary.json"),
    }
    return defaults | os.environ


def _load(environment: dict[str, str], arguments: list[str]) -> int:
    allow_sockets()
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as locust:  # noqa: S603 — our own command line
        try:
            code = locust.wait()
        except KeyboardInterrupt:
            code = locust.wait()  # it has heard Ctrl-C, too, and sums up
        except SystemExit:
            locust.terminate()
            raise
    if code != WRONG_ARGUMENTS:
        sys.stdout.write(f"Report: {environment['LOCUST_HTML']}\nSummary: {environment['LOCUST_SUMMARY']}\n")
    return code


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="make load", description="Put load on a server. Other options go to locust.", allow_abbrev=False
    )
    parser.add_argument("--host", type=_address, help="a running server, http://host:port (default: start one)")
    parser.add_argument("--users", type=_positive, metavar="N", default=200, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=_positive, metavar="S", default=60, help="for how long (default: %(default)s)"
    )
    return parser.parse_known_args()


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        msg = f"{text!r} is not a server's address: expected http://host:port"
        raise argparse.ArgumentTypeError(msg)
    try:
        parts = urlsplit(text)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _REACHED_SECONDS).close()
    except (OSError, ValueError) as error:
        msg = f"cannot reach {text}: {getattr(error, 'strerror', None) or error}"
        raise argparse.ArgumentTypeError(msg) from None
    return text.rstrip("/")


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        msg = f"write a whole number from 1 on, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
