"""What operators do with a database and its backups: dump and restore, folders put back, recovery to a point in time.

All of it is done by PostgreSQL's own programs on real servers. Everything here blocks, as the server's own methods do.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import Literal

import asyncpg

from tests.support.postgres import SECONDS, PostgresServer

ARCHIVING = {"archive_mode": "on", "archive_command": 'mkdir -p "../archive" && cp "%p" "../archive/%f"'}
"""Settings of a server that can be recovered to a point in time; the command runs in its data folder."""


def dump(server: PostgresServer, database: str, *, form: Literal["custom", "plain"] = "custom") -> Path:
    """Dump a database and return the file, which is in the server's folder."""
    path = server.folder / f"{secrets.token_hex(4)}.dump"
    server.run("pg_dump", f"--format={form}", f"--file={path}", server.url(database))
    return path


def restore(server: PostgresServer, database: str, path: Path, *, clean: bool = False) -> None:
    """Restore a dump of the form ``custom``: into an empty database, or with ``clean`` over what is there.

    Again, if somebody who works with the tables wins.
    """
    clear = ["--clean", "--if-exists"] if clean else []
    while True:
        try:
            server.run("pg_restore", "--single-transaction", *clear, f"--dbname={server.url(database)}", path)
        except RuntimeError as error:
            if "deadlock detected" not in str(error):
                raise
        else:
            return


def psql(server: PostgresServer, database: str, path: Path) -> list[str]:
    """Run a file of SQL, statement by statement and on after errors; return the lines with errors."""
    command: list[str | Path] = [
        server.binaries / "psql",
        "--no-psqlrc",
        "--quiet",
        f"--file={path}",
        server.url(database),
    ]
    run = subprocess.run(command, capture_output=True, check=False, text=True, timeout=SECONDS)
    return [line for line in run.stderr.splitlines() if "ERROR" in line or "FATAL" in line]


def drop(server: PostgresServer, database: str) -> None:
    """Drop the schema, again if somebody who works with it wins."""
    while True:
        try:
            asyncio.run(server.execute("DROP SCHEMA abide CASCADE", database=database))
        except asyncpg.DeadlockDetectedError:
            continue
        return


def swap(server: PostgresServer, database: str, path: Path) -> None:
    """Restore a dump into a new database, and give it the name of the old one, whose sessions end."""
    place = "SELECT spcname FROM pg_tablespace t JOIN pg_database d ON d.dattablespace = t.oid WHERE datname = $1"
    [(tablespace,)] = asyncio.run(server.execute(place, database))
    fresh = asyncio.run(server.create_database(tablespace=tablespace))
    restore(server, fresh, path)

    async def rename() -> None:
        connection = await asyncpg.connect(server.url(), server_settings={"default_transaction_read_only": "off"})
        try:
            await _rename(connection, database, f"{database}_old")
            await connection.execute(f'ALTER DATABASE "{fresh}" RENAME TO "{database}"')
            await connection.execute(f'DROP DATABASE "{database}_old" WITH (FORCE)')
        finally:
            await connection.close()

    asyncio.run(rename())


async def _rename(connection: asyncpg.Connection, database: str, name: str) -> None:
    """Rename a database once nobody uses it; who has prepared a transaction in it has to end it first."""
    deadline = time.monotonic() + SECONDS
    while True:
        await connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", database
        )
        prepared = await connection.fetchval("SELECT count(*) FROM pg_prepared_xacts WHERE database = $1", database)
        if not prepared:
            await connection.execute(f'ALTER DATABASE "{database}" RENAME TO "{name}"')
            return
        assert time.monotonic() < deadline, f"{database} has prepared transactions all the time"
        await connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
        await asyncio.sleep(0.1)


def save(server: PostgresServer) -> Path:
    """Copy the data folder of a server, which is stopped for it, and return the copy."""
    copy = server.folder / f"{secrets.token_hex(4)}.data"
    server.stop()
    shutil.copytree(server.data, copy, symlinks=True)
    server.start()
    return copy


def put_back(server: PostgresServer, copy: Path) -> None:
    """Put a saved data folder in the place of the server's own, as a snapshot of a disk is."""
    server.stop()
    server.replace_data(copy)
    server.start()


def take_base(server: PostgresServer) -> Path:
    """Take a base backup of a running server and return its folder."""
    base = server.folder / f"{secrets.token_hex(4)}.base"
    server.run("pg_basebackup", f"--pgdata={base}", "--checkpoint=fast", "--no-sync", f"--dbname={server.url()}")
    return base


def mark(server: PostgresServer) -> str:
    """Name this point in the life of a server with ``ARCHIVING``, and return the name."""
    name = secrets.token_hex(4)
    asyncio.run(server.execute("SELECT pg_create_restore_point($1)", name))
    return name


def recover(server: PostgresServer, base: Path, point: str) -> None:
    """Recover a server to a point that was marked after a base backup was taken: what came later is gone."""
    server.stop()  # which archives the last of its log
    server.replace_data(base)
    settings = {
        "restore_command": 'cp "../archive/%f" "%p"',
        "recovery_target_name": point,
        "recovery_target_action": "promote",
    }
    with (server.data / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    (server.data / "recovery.signal").touch()
    server.start()
    wait_writable(server)
    for name in settings:  # or its standbys would recover to that point, too
        asyncio.run(server.execute(f"ALTER SYSTEM RESET {name}"))


def wait_writable(server: PostgresServer) -> None:
    """Return when a server has left recovery."""
    deadline = time.monotonic() + SECONDS
    while asyncio.run(server.execute("SELECT pg_is_in_recovery()")) != [(False,)]:
        assert time.monotonic() < deadline, f"{server!r} is still in recovery"
        time.sleep(0.01)
