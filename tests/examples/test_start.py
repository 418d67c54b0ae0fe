"""Examples that cannot start say why, in a line."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from tests.support.processes import ROOT


def start(name: str, **variables: str) -> tuple[int, list[str]]:
    """Return the exit code of an example that does not start, and what it says."""
    command = ("make", "--no-print-directory", "-C", f"examples/{name}", "run")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=40, check=False)
    assert done.stdout == ""
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("make: ")]


@pytest.mark.parametrize("name", ["chat", "llm"])
def test_a_port_in_use_is_told_before_anything_starts(name: str) -> None:
    """Example whose port is taken says so before it names its page, and what to type instead."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = start(name, PORT=str(port))
    assert code != 0
    assert said == [f"port {port}: Address already in use; choose another one: make -C examples/{name} run PORT=8001"]


@pytest.mark.parametrize("name", ["orders", "llm"])
def test_a_database_that_is_away_is_told_in_a_line(name: str) -> None:
    """Example whose database does not answer says where it looked."""
    code, said = start(name, PORT="0", DATABASE_URL="postgres://127.0.0.1:1/shop")
    assert code != 0
    assert len(said) == 1
    assert "no connection to 127.0.0.1:1/shop: Connection refused" in said[0]
