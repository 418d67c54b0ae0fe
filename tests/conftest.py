"""What every test may ask for: an event loop, a browser and real servers; and which process runs which tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.scheduler.protocol import Scheduling
from xdist.workermanage import WorkerController

from app.bus.postgres import migrate
from tests.support.chromium import Chromium
from tests.support.postgres import PostgresServer
from tests.support.server import Server

pytest_plugins = ["tests.support.hangs"]
pytest.register_assert_rewrite("tests.bus.conformance")

ServerFactory = Callable[..., Server]

LONGEST = (
    "acceptance/test_faults_under_load",
    "browser/test_browser",
    "acceptance/test_reload",
    "acceptance/test_honest_readiness",
    "access/test_ends",
    "browser/",
    "examples/",
    "acceptance/",
    "bus/",
    "server/test_",
    "access/",
    "web/test_",
    "core/test_data",
    "test_",
    "telemetry/",
    "wire/",
)
"""How the paths begin of what takes longest, which is begun first."""


MEMORY = Path("/dev/shm")  # noqa: S108 — a file system that exists, not a file that one foresees
"""A file system in memory, where programs may run and there is :data:`ROOM`."""

ROOM = 6 * 2**30
"""Bytes that temporary files may take: those of twenty PostgreSQLs and some browsers, at the most."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of Kafka use a broker that runs already, such as Apache Kafka's."""
    parser.addoption("--kafka", metavar="HOST:PORT", help="a broker for tests/bus/test_kafka.py and tests/bus/kafka")


def pytest_configure() -> None:
    """Trust no certificates of the machine: each client of httpx would read all of them, which takes 16 ms.

    Keep temporary files in memory: a database is made in a third of the time, and none of them outlives its test.
    """
    os.environ.pop("SSL_CERT_FILE", None)
    os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for garbage only among what tests make: the tests and what they import, half a million objects, last."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


class FileScheduling(LoadFileScheduling):
    """Give a process whole files, whose tests share servers; a test that ends its process is not tried in another."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test that a process has ended in, if any; what it had still to do goes to others."""
        for tests in self.assigned_work[node].values():
            for name, done in tests.items():
                if not done:
                    tests[name] = True
                    super().remove_node(node)
                    return name
        return super().remove_node(node)

    def _reschedule(self, node: WorkerController) -> None:
        """Give it more, unless it has just taken the place of one that ended, and does not know the tests yet."""
        if node in self.registered_collections:
            super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Leave it to :func:`pytest_collection_modifyitems` which file comes first."""
    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest: else one process has it to itself in the end."""
    if not hasattr(config, "workerinput"):
        return
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(here).as_posix()
        return next((number for number, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))

    items.sort(key=rank)


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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """Start one browser for all tests, which open tabs of their own."""
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Start one PostgreSQL for all tests of this process that do not break it; each has a database of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> str:
    """Make a migrated database to copy."""
    name = asyncio.run(postgres.create_database())
    asyncio.run(migrate(postgres.url(name)))
    return name


@pytest.fixture
def database_url(postgres: PostgresServer, template: str) -> Iterator[str]:
    """Return the address of a new database with the schema."""
    name = asyncio.run(postgres.create_database(template))
    yield postgres.url(name)
    asyncio.run(postgres.drop_database(name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:  # noqa: ANN401, ARG001 — pytest's signature
    """Put the logs of the servers that run into the report of a failed test."""
    report: pytest.TestReport = yield
    if report.failed:
        report.sections.extend((f"log of {server!r}", server.text()) for server in Server.running)
    return report
