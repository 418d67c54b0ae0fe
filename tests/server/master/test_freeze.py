"""A machine that stops for a while with all its processes."""

from __future__ import annotations

import os
import signal
import time

import httpx

from app.server.master.freeze import LATE_SECONDS, HangCheck
from tests.conftest import ServerFactory
from tests.support.server import Server

TIMEOUT = 2
"""Seconds after which gunicorn replaces a worker that shows no life."""


def epoch(server: Server) -> str:
    answer: str = httpx.post(f"{server.url}/push/news", json=1, timeout=10).raise_for_status().json()["epoch"]
    return answer


def test_a_worker_outlives_a_freeze_and_is_replaced_when_it_hangs(server_factory: ServerFactory) -> None:
    """Master keeps a worker after both were frozen, and with it the log; a worker that hangs alone is replaced."""
    server = server_factory(env={"GUNICORN_CMD_ARGS": f"--timeout={TIMEOUT}"})
    before = epoch(server)
    pid = server.wait_log(lambda line: line["event"] == "serving")["pid"]
    os.kill(pid, signal.SIGSTOP)
    server.send_signal(signal.SIGSTOP)
    time.sleep(LATE_SECONDS + 0.5)  # the freeze itself
    server.send_signal(signal.SIGCONT)
    server.wait_log(lambda line: "was frozen for" in line["event"])
    os.kill(pid, signal.SIGCONT)
    assert epoch(server) == before
    os.kill(pid, signal.SIGSTOP)
    server.wait_log(lambda line: line["event"] == "serving" and line["pid"] != pid)
    assert epoch(server) != before


def test_a_watch_is_patient_after_a_freeze_alone() -> None:
    """Check looks every time, but for one timeout after it came late itself."""
    now, looks = 100.0, 0
    freezes: list[float] = []

    def look() -> None:
        nonlocal looks
        looks += 1

    watch = HangCheck(look, lambda: 30, freezes.append, lambda: now)
    for seconds, expected in ((1, 1), (LATE_SECONDS, 2), (35, 2), *[(1, 2)] * 29, (1, 3)):
        now += seconds
        watch()
        assert looks == expected
    assert freezes == [35]
