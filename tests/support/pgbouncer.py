"""PgBouncer before a test's PostgreSQL, where the machine has it: what users with a pooler will meet."""

import os
import shutil
import socket
import subprocess
import weakref
from pathlib import Path
from typing import Self

from tests.support.postgres import PostgresServer, make_folder, spawn, wait_until
from tests.support.processes import free_port
from tests.support.programs import skip

SETTINGS = """\
[databases]
* = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
max_client_conn = 500
default_pool_size = 20
"""


def find_pgbouncer() -> Path:
    """Return the program, which Debian keeps where only root's PATH leads; without it skip, but fail with CI=true."""
    found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    return Path(found) if found else skip("not installed: pgbouncer")


class PgBouncer:
    """A PgBouncer in front of every database of one server, on a free port of 127.0.0.1; ``mode`` is what it pools.

    Use it as a context manager inside the server's. Raises RuntimeError with the end of its log if it won't start.
    """

    def __init__(self, server: PostgresServer, *, mode: str = "transaction") -> None:
        self.port = free_port()
        self._program = find_pgbouncer()
        self._server_port = server.port
        self._mode = mode

    def __enter__(self) -> Self:
        """Start it and return when it takes connections."""
        folder = make_folder("abide-pgbouncer-")
        settings, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
        settings.write_text(SETTINGS.format(port=self.port, server_port=self._server_port, mode=self._mode))
        process = spawn([self._program, settings], folder, log)
        self._finalizer = weakref.finalize(self, _dispose, process, folder, os.getpid())
        wait_until(self._is_listening, process, log)
        return self

    def __exit__(self, *_: object) -> None:
        """End it and delete its folder."""
        self._finalizer()

    def url(self, database: str = "postgres") -> str:
        """Return the address of one of the server's databases through the pool, for asyncpg and libpq."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _dispose(process: subprocess.Popen[bytes], folder: Path, creator: int) -> None:
    if os.getpid() == creator:  # A forked child has this finaliser too.
        process.kill()  # It holds nothing to save, and its versions disagree on which signal stops it at once.
        process.wait()
        shutil.rmtree(folder)
