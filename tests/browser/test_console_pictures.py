"""The pictures of the console in docs: taken by a test, and of the console as it is."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.chromium import Chromium
from tests.support.processes import ROOT
from tests.support.server import Server

KEEP = "CONSOLE_PICTURES"
"""The variable that, if it is set, makes the test keep the pictures in docs: after so many seconds of traffic."""

DOCS = ROOT / "docs"
NOTED = DOCS / "console-pictures.sha256"
PICTURES = {
    "console.png": (1280, 860, "light"),
    "console-dark.png": (1280, 860, "dark"),
    "console-phone.png": (390, 844, "light"),
    "console-phone-dark.png": (390, 844, "dark"),
}
PEOPLE = ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Edsger Dijkstra")
STATES = ("paid", "packed", "shipped")


def digest() -> str:
    """Return the hash of the files that the console is made of; client.js is not to be seen."""
    files = [file for file in (ROOT / "app/web/console").rglob("*") if file.suffix in {".html", ".css", ".js"}]
    content = b"".join(file.read_bytes() for file in sorted(files) if file.name != "client.js")
    return hashlib.sha256(content).hexdigest()


@contextmanager
def traffic(server: Server) -> Iterator[None]:
    """Publish to some channels and subscribe to them until the context ends."""
    ended = threading.Event()

    def publish() -> None:
        with httpx.Client(base_url=server.url) as http:
            for number in range(10**6):
                person = PEOPLE[number % len(PEOPLE)]
                order = {
                    "id": 1000 + number,
                    "state": STATES[number % 3],
                    "total": number * 7 % 90 + 0.9,
                    "by": {"name": person, "known": number % 4 > 0},
                }
                http.post("/push/orders", json=order)
                if number % 3 == 0:
                    room = ("lobby", "support", "lobby", "random")[number % 4]
                    http.post(f"/push/chat.{room}", json={"from": person, "text": "hello"})
                if number % 8 == 0:
                    http.post("/push/lebowski", json="The Dude abides.")
                if ended.wait(0.03 + number * number % 11 / 60):
                    return

    with ExitStack() as stack:
        for path in (*["orders"] * 7, *["chat.lobby"] * 3, "lebowski"):
            stack.enter_context(connect(f"{server.ws_url}/{path}", max_queue=None))
        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            yield
        finally:
            ended.set()
            publisher.join()


@pytest.mark.timeout(300)
def test_pictures_of_the_console_are_taken(chromium: Chromium, server: Server, tmp_path: Path) -> None:
    """Pictures show a busy channel on a desktop and on a phone, in light and in dark."""
    kept = os.environ.get(KEEP)
    with traffic(server):
        time.sleep(float(kept or 0))
        for name, (width, height, scheme) in PICTURES.items():
            with chromium.page() as page:
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
                page.command("Emulation.setDeviceMetricsOverride", **size)
                page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                page.open(f"{server.url}/#orders")
                page.until("document.querySelectorAll('#rows tr').length > 5")
                page.until("document.querySelector('#rates .line') !== null")
                page.command("Emulation.setScrollbarsHidden", hidden=True)
                page.run("document.querySelectorAll('#rows .open')[2].click()")
                picture = (DOCS if kept else tmp_path) / name
                page.screenshot(picture)
                assert int.from_bytes(picture.read_bytes()[16:20]) == width  # in the header of a PNG
                assert page.run("return refused") == []
    if kept:
        NOTED.write_text(f"{digest()}\n")


def test_pictures_are_of_the_console_as_it_is() -> None:
    """Pictures in docs were taken of the files that the console has now."""
    retake = f"{KEEP}=70 .venv/bin/python -m pytest tests/browser/test_console_pictures.py"
    assert NOTED.read_text().strip() == digest(), f"the console has changed: look at it, and run {retake}"
    assert [name for name in PICTURES if not (DOCS / name).exists()] == []
