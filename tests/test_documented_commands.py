"""The commands that the pages show run as written, in a fresh clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.support.processes import ROOT
from tests.support.programs import Program
from tests.support.server import Server

PAGES = [
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))),
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "loadtests/README.md"),
]
SERVE = "make run"
SUBSCRIBE = "bin/abide subscribe "
PATTERN = re.compile(r"…|<\w[^<>]*>")
"""What nobody can run as it is: something of the reader's own is to be put in."""


class Block(NamedTuple):
    """One block of a page."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands that can be run, if it is a block of commands."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        return [line for line in lines if line.strip() and not PATTERN.search(line)]


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


def with_commands() -> list[str]:
    return [page for page in PAGES if any(block.commands for block in blocks(page))]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what a clone would have, and a .venv as `make` leaves it."""
    folder = tmp_path_factory.mktemp("clone") / "abide"
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith((".venv", "benchmarks/results")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    for part in (ROOT / ".venv").iterdir():
        if part.name != ".installed":
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv" / ".installed").touch()  # newer than the lock, so that nothing is installed
    return folder


@pytest.fixture(scope="module")
def served(clone: Path) -> Iterator[Server]:
    """Start the server as README's first block does, in the clone."""
    assert blocks("README.md")[0].commands == [SERVE]
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    with Server(command=["bash", "-c", f"cd {clone} && unset CHANNELS_CONFIG && exec {SERVE}"], env=env) as server:
        yield server


class Shell:
    """Runs a page's commands in the clone, as somebody who reads it would."""

    def __init__(self, clone: Path, server: Server, home: Path) -> None:
        # An answer that is an error fails the command, and stderr is for what is wrong.
        (home / ".curlrc").write_text("fail\nno-progress-meter\n")
        self._clone, self._server = clone, server
        self._env = {"PATH": os.environ["PATH"], "HOME": str(home), "PORT": str(server.port)}

    def run(self, command: str) -> None:
        """Run a command that ends; it succeeds."""
        done = subprocess.run(
            self._line(command), cwd=self._clone, env=self._env, capture_output=True, text=True, timeout=20, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stdout}{done.stderr}"

    def follow(self, command: str) -> None:
        """Run a command that prints a channel's messages until Ctrl-C."""
        line = self._line(f"exec {command}")
        with Program(*line, apart=True, folder=self._clone, environment=self._env) as program:
            heard = threading.Event()
            publisher = threading.Thread(target=self._publish_until, args=(heard, command.split()[2]))
            publisher.start()
            got = program.line()
            heard.set()
            publisher.join()
            program.interrupt()
        assert (got, program.errors) == ("1", [])

    def _publish_until(self, heard: threading.Event, channel: str) -> None:
        for _ in range(100):
            httpx.post(f"{self._server.url}/push/{channel}", json=1).raise_for_status()
            if heard.wait(0.1):
                break

    def _line(self, command: str) -> list[str]:
        here = command.replace("localhost:8000", f"localhost:{self._server.port}")
        return ["bash", "-o", "pipefail", "-euc", here]


@pytest.mark.parametrize("page", with_commands())
def test_commands_of_a_page_run_as_written(page: str, clone: Path, served: Server, tmp_path: Path) -> None:
    """Page's commands succeed one after the other, beside the server that README starts."""
    shell = Shell(clone, served, tmp_path)
    for command in (command for block in blocks(page) for command in block.commands):
        if command.startswith(SUBSCRIBE):
            shell.follow(command)
        elif command != SERVE:
            shell.run(command)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    """Page's blocks name their language, and those of commands are called ``sh``, so that they are run here."""
    assert {block.language for block in blocks(page)} <= {
        *(
            "sh",
            "text",
            "python",
            "js",
            "html",
            "yaml",
            "json",
            "sql",
            "dockerfile",
            "nginx",
            "ini",
            "toml",
            "jsx",
            "ts",
            "ruby",
        )
    }
    assert (ROOT / page).read_text().count("\n```") % 2 == 0


def test_readme_shows_commands_that_run() -> None:
    """README has commands that are run, and not only patterns."""
    assert {"README.md", "docs/client.md", "docs/operations/README.md"} <= set(with_commands())
