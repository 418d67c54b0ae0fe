"""The load test's report, as locust's page has it for download and as a run leaves it, in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.chromium import Page
from tests.support.processes import free_port, launch
from tests.support.server import Server

SECONDS = 40.0


def downloaded(url: str) -> str:
    """Return locust's report once its run has stopped."""
    deadline = time.monotonic() + SECONDS
    with httpx.Client(base_url=url) as http:
        while time.monotonic() < deadline:
            try:
                if http.get("/stats/requests").json()["state"] == "stopped":
                    return http.get("/stats/report", params={"download": 1}).text
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
    msg = "locust's run did not stop"
    raise AssertionError(msg)


def shown(page: Page, file: Path) -> str:
    """Return the text that a browser shows of a report."""
    page.open(file.as_uri())
    text: str = page.until("document.querySelector('#root table') && document.body.innerText")
    assert page.run("return refused") == []
    return text


def test_a_report_shows_statistics_and_verdict(server: Server, page: Page, tmp_path: Path) -> None:
    """Report, downloaded or left by the run, shows locust's tables, the reconciliation and the verdict."""
    port, written, download = free_port(), tmp_path / "written.html", tmp_path / "download.html"
    command = [
        *(sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--autostart", "--web-host", "127.0.0.1"),
        *("-H", server.url, "-u", "4", "-r", "4", "-t", "5s", "--channels", "chat.load", "--html", str(written)),
        *("--web-port", str(port), "--max-p99", "5000"),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    with launch(command, environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as locust:
        try:
            download.write_text(downloaded(f"http://127.0.0.1:{port}"))
        finally:
            locust.send_signal(signal.SIGINT)
            said = locust.communicate(timeout=SECONDS)[0].decode()
    assert locust.returncode == 0, said
    for file in (written, download):
        text = shown(page, file)
        assert "fan-out" in text
        assert "Reconciliation: 3 subscribers expected" in text
        assert "0 holes, 0 doubles" in text
        assert "PASSED: nothing exceeded its threshold" in text
