"""The application in the test's process: as somebody has it who adds to it, mounts it, or tests their own."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient
from starlette.types import ASGIApp, Scope

from app.config import Environment
from app.main import Abide

CHANNELS = """\
backend: memory://
operators: anyone
origins: ["https://app.example"]
channels:
  orders: {publish: anyone}
  few: {publish: anyone, max_message_size: 20B}
  sealed: {publish: nobody}
  chat.lobby: {publish: anyone, client_publish: true}
  "chat.{room}": {publish: anyone}
"""


def application(folder: Path, channels: str = CHANNELS, **variables: str) -> Abide:
    """Return an application with a channels.yaml in ``folder``; it leaves the process's log alone."""
    path = folder / "channels.yaml"
    path.write_text(channels, encoding="utf-8")
    return Abide(Environment.read({"CHANNELS_CONFIG": str(path), **variables}))


def client(app: ASGIApp, *, root_path: str = "") -> TestClient:
    """Return a client of a server under ``root_path``, told of a crash as others are: by the answer."""
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False, root_path=root_path)


def scope(path: str, method: str | None = "GET", root_path: str = "") -> Scope:
    """Return the scope of a request; of a WebSocket without a method."""
    kind = {"type": "websocket", "subprotocols": []} if method is None else {"type": "http", "method": method}
    return {**kind, "path": root_path + path, "root_path": root_path, "headers": [], "query_string": b""}
