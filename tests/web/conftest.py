"""One server for the tests of the edge: they change nothing that another could see."""

import gc
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.support.server import SERVE, Server

CHANNELS = """
backend: memory://
auth: {keys: "first-key-1, second-key-2"}
origins: ["https://app.example", "https://*.example.org", "null"]
operators: key
channels:
  lebowski: {publish: anyone}
  talk: {publish: anyone, client_publish: true}
  listen: {publish: key}
  desk: {publish: operators, client_publish: true}
  sealed: {publish: nobody}
  small: {publish: anyone, client_publish: true, max_message_size: 20B}
  wide: {publish: anyone, client_publish: true, max_message_size: 1MiB}
  short: {publish: anyone, history: {size: 10}}
  short2: {publish: anyone, history: {size: 10}}
  "chat.{room}": {publish: anyone}
  "chat-{room}": {publish: anyone}
"""

KEY = {"authorization": "Bearer second-key-2"}


PLAIN = (
    *(sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"),
    *("-k", "tests.support.plain_worker.PlainWorker", "app.main:create_app()"),
)
"""A server that cannot hand connections over: everything must work there too."""


@pytest.fixture(scope="session", params=[SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def edge(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(channels=CHANNELS, command=request.param) as server:
        yield server


@pytest.fixture
def http(edge: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=edge.url, timeout=10) as client:
        yield client


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: a worker's start leaves next to nothing to look through, pytest's does not."""
    gc.disable()
    yield
    gc.enable()
