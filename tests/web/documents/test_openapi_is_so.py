"""The server does what its OpenAPI document says: Schemathesis asks whatever the document allows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.server import Server
from tests.support.tokens import SECRET, bearer, token_of
from tests.support.warm import WarmPython, finished

KEY = "the-key-of-all"
CHANNELS = f"""
backend: memory://
operators: anyone
auth:
  keys: [{KEY}]
  tokens: {{secret: "{SECRET}"}}
channels:
  news: {{publish: [key, token], subscribe: anyone}}
  "user.{{id}}": {{publish: token, subscribe: {{claim: sub}}}}
"""
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Start a server whose document everybody may read, and whose history has a message: nobody waits for one."""
    with Server(channels=CHANNELS) as server:
        httpx.post(f"{server.url}/push/news", json=1, headers=bearer(KEY)).raise_for_status()
        yield server


@pytest.fixture(scope="module")
def schemathesis() -> WarmPython:
    """Return a Python that has imported Schemathesis, which takes as long as to ask."""
    return WarmPython("schemathesis.cli")


@pytest.mark.parametrize(
    "headers",
    [{}, bearer(KEY), bearer(token_of("42", 300)), bearer("not.a.token")],
    ids=["nothing", "key", "token", "not good"],
)
def test_no_answer_differs_from_the_document(
    server: Server, schemathesis: WarmPython, headers: dict[str, str], tmp_path: Path
) -> None:
    """Server answers whatever its document allows as the document says, whoever asks, and never with 500."""
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{server.url}/openapi.json").raise_for_status().content)
    sent = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    endless = [part for path in ("/news", "/user.{id}") for part in ("--exclude-path", path)]  # event streams
    generated = ["--phases", "examples,fuzzing", "--max-examples", "5", "--generation-deterministic"]
    how = ["--checks", ",".join(CHECKS), "--no-color", "--request-timeout", "20"]
    command = ["schemathesis.cli", "run", str(document), "--url", server.url, *sent, *endless, *generated, *how]
    done = finished(schemathesis.launch(command, os.environ, folder=tmp_path))
    assert done.returncode == 0, done.stdout
    assert "generated" in done.stdout
