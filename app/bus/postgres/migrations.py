"""The schema: created and upgraded by numbered steps, one server at a time.

The lock is on a table of ours, which a role without rights there cannot take. Before there is one, servers that
create the schema at once run into each other: all but one are refused a name, and find the schema when they look again.
"""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg

from app import COMMAND
from app.bus.postgres import sql
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import MIGRATE, explain
from app.bus.postgres.sessions.work_connection import Session, connect
from app.core.errors import UnavailableError

_OLDEST_SERVER = 130000

_FIRST_WITH_EPOCH = 5

_ATTEMPTS = 5
_RETRY_SECONDS = 0.2

_TAKEN = (
    asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError, asyncpg.DuplicateTableError,
    asyncpg.DuplicateFunctionError, asyncpg.DuplicateObjectError, asyncpg.DeadlockDetectedError,
)  # fmt: skip
"""What says that another server creates the schema, too."""

_UNHURRIED = """
SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '10s' ELSE '0' END, true)
FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout', 'lock_timeout')
"""
_STEP_SECONDS = 3600.0
"""A step may take a while, though not for a lock, which appends would wait for behind it."""

EMPTY = f"abide.installation is empty: restore a backup, or drop the schema 'abide' and run '{COMMAND} migrate'"

_INCOMPLETE = "the schema 'abide' is not complete: a backup is being restored, or was not restored to its end"

_GONE = (
    "the schema 'abide' is gone, and this server has served a log from it: restore it, or run "
    f"'{COMMAND} migrate' to begin a new one"
)


async def migrate(url: str) -> list[str]:
    """Create or upgrade the schema; return the names of the steps taken, none when it is current.

    Raises :class:`UnavailableError` when the database cannot be reached, the role may not, or the
    schema is newer than this code.
    """
    connection = await connect(parse(url), "abide migrate")
    try:
        _check_encoding(connection)
        return await _upgrade(connection)
    except asyncpg.PostgresError as error:
        msg = f"the schema 'abide' could not be migrated: {explain(error)}"
        raise UnavailableError(msg) from error
    finally:
        await connection.close()


async def ensure(connection: Session, *, may_create: bool) -> None:
    """Bring the schema up to date if it is not and the role may; make it where there is none if it ``may_create``.

    Raises :class:`UnavailableError` that says what to do.
    """
    _check_encoding(connection)
    try:
        if await connection.fetchval(sql.query("incomplete")):
            raise UnavailableError(_INCOMPLETE)
        version = await _version(connection)
        if not version and not may_create:
            raise UnavailableError(_GONE)
        if version != len(sql.migrations()):
            await _upgrade_at_start(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        msg = f"this role may not use the schema 'abide': {explain(error)}"
        raise UnavailableError(msg) from error


async def _take(connection: Session, step: sql.Migration) -> None:
    """Take one step; a new version alone ends no epoch."""
    has_epoch = step.number > _FIRST_WITH_EPOCH and await connection.fetchval("SELECT certified FROM abide.epoch")
    await connection.execute(step.sql, timeout=_STEP_SECONDS)
    await connection.execute("UPDATE abide.installation SET version = $1", step.number)
    if has_epoch or step.number == _FIRST_WITH_EPOCH:
        await connection.execute("UPDATE abide.installation SET writer = xmin")


async def _upgrade_at_start(connection: Session) -> None:
    try:
        await _upgrade(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        msg = f"the schema 'abide' is missing or old, and this role may not change it: {MIGRATE} ({error})"
        raise UnavailableError(msg) from error


def _check_encoding(connection: Session) -> None:
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        msg = (
            f"the database's encoding is {encoding}, which cannot hold every message: use one of encoding UTF8 "
            "(CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
        )
        raise UnavailableError(msg)


async def _version(connection: Session) -> int:
    """Return the schema's version, 0 when there is none; raise when it is newer than this code."""
    # Not to_regclass(): it would answer from a cache that another session's new schema has not reached.
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'abide')"):
        return 0
    try:
        version: int | None = await connection.fetchval("SELECT version FROM abide.installation")
    except asyncpg.UndefinedTableError as error:
        raise UnavailableError(_INCOMPLETE) from error
    if version is None:
        raise UnavailableError(EMPTY)
    newest = len(sql.migrations())
    if version > newest:
        msg = f"the schema 'abide' has version {version}, this server knows {newest}: deploy a newer server"
        raise UnavailableError(msg)
    return version


async def _upgrade(connection: Session) -> list[str]:
    number = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
    if number < _OLDEST_SERVER:
        msg = f"PostgreSQL {number // 10000} is too old: 13 or newer is needed"
        raise UnavailableError(msg)
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(*_TAKEN):
            return await _take_steps(connection)
        await asyncio.sleep(_RETRY_SECONDS)
    return await _take_steps(connection)


async def _take_steps(connection: Session) -> list[str]:
    async with connection.transaction():
        await connection.execute(_UNHURRIED)
        # Where every role may create functions in public, none of them is to run with our rights.
        await connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        if await _version(connection):
            await connection.execute("LOCK TABLE abide.installation IN SHARE ROW EXCLUSIVE MODE")
        version = await _version(connection)
        steps = [step for step in sql.migrations() if step.number > version]
        # An administrator may have made it, for a role that may make none.
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'abide')"):
            await connection.execute("CREATE SCHEMA abide")
        for step in steps:
            await _take(connection, step)
    return [step.name for step in steps]
