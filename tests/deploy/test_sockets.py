"""Postgres in a folder, as Cloud Run has Cloud SQL: no address, no port, and colons in the folder's name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote_plus

import httpx
import pytest

from tests.support.postgres import PostgresServer
from tests.support.server import Server

CHANNELS = """\
backend: ${DATABASE_URL}
channels:
  news: {publish: anyone}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Start a Postgres that listens in a folder only, on the port that everybody expects."""
    postgres = PostgresServer()
    folder = postgres.folder / "project:region:instance"
    folder.mkdir()
    owner = postgres.folder.stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    postgres.settings |= {"listen_addresses": "", "unix_socket_directories": str(folder)}
    postgres.port = 5432
    with postgres:
        yield folder


@pytest.mark.parametrize("written", [str, quote_plus], ids=["as it is", "escaped"])
def test_a_server_uses_a_database_in_a_folder(folder: Path, written: Callable[[str], str]) -> None:
    """Server migrates, stores and delivers over the socket in the folder that the URL names."""
    url = f"postgres://postgres:password@/postgres?host={written(str(folder))}"
    with Server(channels=CHANNELS, env={"DATABASE_URL": url}, ready_path="/health/ready") as server:
        pushed = httpx.post(f"{server.url}/push/news", json="over a socket")
        assert pushed.status_code == 200
        messages = httpx.get(f"{server.url}/news/history").json()["messages"]
        assert messages[-1]["data"] == "over a socket"


def test_a_folder_without_a_socket_is_named(folder: Path) -> None:
    """Readiness names the folder in which there is no socket."""
    url = f"postgres://postgres@/postgres?host={folder.parent}"
    with Server(channels=CHANNELS, env={"DATABASE_URL": url}) as server:
        answer = httpx.get(f"{server.url}/health/ready")
        assert answer.status_code == 503
        assert f"no connection to {folder.parent}/postgres" in answer.text
