"""The schema: created and upgraded in numbered steps, by one server at a time.

The lock is on a table of ours, which a role without rights there cannot take. Before that table exists, servers that
create the schema at the same time collide: all but one are refused a name, and find the schema when they look again.
"""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg

from app import COMMAND
from app.bus.postgres import sql
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import MIGRATE, explain
from app.bus.postgres.sessions.session import Session, connect
from app.core.errors import UnavailableError

_OLDEST_SERVER = 130000

_FIRST_WITH_EPOCH = 5

_ATTEMPTS = 5
_RETRY_SECONDS = 0.2

_TAKEN = (
    asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError, asyncpg.DuplicateTableError,
    asyncpg.DuplicateFunctionError, asyncpg.DuplicateObjectError, asyncpg.DeadlockDetectedError,
)  # fmt: skip
"""Errors that say that another server is creating the schema, too."""

_STEP_SECONDS = 3600.0
"""A step may take a while; for its locks it has the time that migration_timeouts.sql sets."""

EMPTY = f"abide.installation is empty: restore a backup, or drop the schema 'abide' and run '{COMMAND} migrate'"

_INCOMPLETE = "the schema 'abide' is not complete: a backup is being restored, or was not restored to its end"

_GONE = (
    "the schema 'abide' is gone, and this server has already used it: restore it, or run "
    f"'{COMMAND} migrate' to begin with an empty log"
)


async def migrate(url: str) -> list[str]:
    """Create or upgrade the schema; return the names of the steps taken, none when it is current.

    Raises :class:`UnavailableError` when the database cannot be reached, when the role may not change the schema, or
    when the schema is newer than this code.
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
    """Upgrade the schema if it is old and the role may; create a missing one only if it ``may_create``.

    Raises :class:`UnavailableError`, which says what to do.
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
    has_epoch = step.number > _FIRST_WITH_EPOCH and await connection.fetchval(sql.query("certified"))
    await connection.execute(step.sql, timeout=_STEP_SECONDS)
    await connection.execute(sql.query("set_version"), step.number)
    if has_epoch or step.number == _FIRST_WITH_EPOCH:
        await connection.execute(sql.query("certify"))


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
            f"the database's encoding is {encoding}, which cannot hold every message: use a database with UTF8 "
            "(CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
        )
        raise UnavailableError(msg)


async def _version(connection: Session) -> int:
    """Return the schema's version, 0 when there is none; raise when it is newer than this code."""
    if not await connection.fetchval(sql.query("has_tables")):
        return 0
    try:
        version: int | None = await connection.fetchval(sql.query("version"))
    except asyncpg.UndefinedTableError as error:
        raise UnavailableError(_INCOMPLETE) from error
    if version is None:
        raise UnavailableError(EMPTY)
    newest = len(sql.migrations())
    if version > newest:
        msg = f"the schema 'abide' has version {version}, and this server knows {newest}: deploy a newer server"
        raise UnavailableError(msg)
    return version


async def _upgrade(connection: Session) -> list[str]:
    number = int(await connection.fetchval(sql.query("server_version")))
    if number < _OLDEST_SERVER:
        msg = f"PostgreSQL {number // 10000} is too old: use 13 or newer"
        raise UnavailableError(msg)
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(*_TAKEN):
            return await _take_steps(connection)
        await asyncio.sleep(_RETRY_SECONDS)
    return await _take_steps(connection)


async def _take_steps(connection: Session) -> list[str]:
    async with connection.transaction():
        await connection.execute(sql.query("migration_timeouts"))
        await connection.execute(sql.query("safe_search_path"))
        if await _version(connection):
            await connection.execute(sql.query("lock_installation"))
        version = await _version(connection)
        steps = [step for step in sql.migrations() if step.number > version]
        if not await connection.fetchval(sql.query("has_schema")):
            await connection.execute(sql.query("create_schema"))
        for step in steps:
            await _take(connection, step)
    return [step.name for step in steps]
