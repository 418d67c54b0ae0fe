"""The pages are true to the tree, and the way of a message to what the server does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from app.config import Environment
from app.main import Abide
from tests.support.local import LocalServer

ROOT = Path(__file__).parents[1]
APP = ROOT / "app"
DESIGN = ROOT / "docs/design"
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "README.md"]
OVERVIEW = (DESIGN / "README.md").read_text(encoding="utf-8")

PATH = re.compile(r"(?<!/)\b(?:app|tests|docs|config)/[\w./-]*\w\.[a-z]+|(?<!/)\bapp/[\w/]*\w/(?!\w)")
"""A file or, of ``app``, a folder; not a part of an address."""


def section(heading: str) -> str:
    """Return the text under a heading of the overview, up to the next one of its level."""
    return OVERVIEW.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def stops() -> list[list[str]]:
    """Return the files of each stop of the walk: one, or one for each backend."""
    items = re.split(r"^\d+\. ", section("The way of a message"), flags=re.MULTILINE)[1:]
    last = items[-1].partition("\n\n")[0]
    return [PATH.findall(item) for item in (*items[:-1], last)]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_path_of_a_page_exists(page: str) -> None:
    """Pages name files and folders that exist."""
    named = PATH.findall((ROOT / page).read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_room_has_a_page() -> None:
    """Each folder directly in ``app`` has a page, and the overview links to it."""
    rooms = [path.name for path in APP.iterdir() if (path / "__init__.py").is_file()]
    assert [room for room in sorted(rooms) if not (DESIGN / f"{room}.md").is_file()] == []
    assert [room for room in sorted(rooms) if f"[`app/{room}/`]({room}.md)" not in section("Rooms")] == []


def test_the_way_of_a_message_names_each_stop_once() -> None:
    """Walk begins with the push and ends with the socket, and names each file once."""
    files = [file for stop in stops() for file in stop]
    assert all(stops())
    assert (files[0], files[-1]) == ("app/web/publish/push.py", "app/server/lasting/link.py")
    assert sorted(files) == sorted(set(files))


def test_a_message_takes_the_way_that_is_written(tmp_path: Path) -> None:
    """Walk's files run when a message is pushed, one after the other in its order."""
    config = tmp_path / "channels.yaml"
    config.write_text(f"backend: sqlite:///{tmp_path}/log.db\nchannels: {{news: {{publish: anyone}}}}\n")
    application = Abide(Environment.read({"CHANNELS_CONFIG": str(config)}))
    ran: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:  # noqa: ANN401 — any object
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(APP)):
            ran.append(str(Path(file).relative_to(ROOT)))

    with LocalServer(application, lifespan="on") as server, connect(f"ws://127.0.0.1:{server.port}/news") as socket:
        server.call(sys.setprofile, note)
        httpx.post(f"http://127.0.0.1:{server.port}/push", json={"channel": "news", "message": 1}).raise_for_status()
        assert socket.recv(timeout=20) == "1"
        server.call(sys.setprofile, None)
    calls = iter(ran)
    others = re.compile("app/bus/(memory|postgres)/")
    assert [file for stop in stops() for file in stop if not others.match(file) and file not in calls] == []


def test_the_glossary_has_one_entry_a_line() -> None:
    """Glossary has each word once, in order, on a line of its own."""
    lines = [line for line in section("Glossary").splitlines() if line and not line.startswith("Use these words")]
    words = [re.match(r"- \*\*([^*]+)\*\*: \S.*\.$", line) for line in lines]
    assert [line for line, word in zip(lines, words, strict=True) if word is None and not line.endswith("…")] == []
    found = [line[4:].partition("**")[0] for line in lines]
    assert found == sorted(set(found))
