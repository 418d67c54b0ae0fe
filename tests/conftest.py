"""What every test may ask for: an event loop, and real servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.server import Server

ServerFactory = Callable[..., Server]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture
def server_factory() -> Iterator[ServerFactory]:
    """Return a function that starts a server; it takes what :class:`Server` takes. All end with the test."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Server:  # noqa: ANN401 — Server's own
            return stack.enter_context(Server(**options))

        yield start


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Start one server with the default channels for all tests that leave it as they found it."""
    with Server() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:  # noqa: ANN401, ARG001 — pytest's signature
    """Put the logs of the servers that run into the report of a failed test."""
    report: pytest.TestReport = yield
    if report.failed:
        report.sections.extend((f"log of {server!r}", server.text()) for server in Server.running)
    return report
