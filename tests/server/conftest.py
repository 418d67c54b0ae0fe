"""A server of the small application, for all tests of the process edge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import asgi_app
from tests.support.server import Server


@pytest.fixture(scope="module")
def edge() -> Iterator[Server]:
    """Start the small application under the project's worker and settings."""
    with Server(command=asgi_app.COMMAND, ready_path="/ok") as server:
        yield server
