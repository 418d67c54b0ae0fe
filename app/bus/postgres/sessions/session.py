"""One session with PostgreSQL: how it is opened, which settings it gets, when it is of no more use, how it is closed.

Each session has its own timeouts on the server, so that nothing abandoned here runs on there for long: a network that
is gone loses the request to cancel as well.
"""

from __future__ import annotations

import contextlib

import asyncpg
import structlog

from app.bus.postgres import sql
from app.bus.postgres.sessions.dsn import Dsn
from app.bus.postgres.sessions.faults import explain, sqlstate
from app.core.errors import UnavailableError

_log = structlog.get_logger(__name__)

CONNECT_SECONDS = 4.0
COMMAND_SECONDS = 10.0
"""A connection that has not answered for this long counts as dead: its peer may be gone without a word."""

RETRY_SECONDS = 0.05
"""The pause before another attempt."""

_CLOSE_SECONDS = 1.5
"""How long an abandoned statement may take to end."""

LOST = (
    OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError, TimeoutError,
    asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.CannotConnectNowError, asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError, EOFError,
)  # fmt: skip
"""The connection is gone, and the outcome of the statement is unknown. asyncpg raises classes of its own when a server
goes down at the wrong moment. So everything counts that is not the server's own refusal of a statement."""

_STATEMENT_ALONE = ("22", "23", "40", "42501", "44", "53", "54", "55P03", "57014", "P0")
"""SQLSTATEs, or their beginnings, that refuse one statement. Any other refuses all that follow: the server takes no
writes any more, the schema was restored, a plan is out of date. Another connection may lead elsewhere."""

_ROW_DROPPED = "AB101"
"""SQLSTATE of the warning of ``abide.look_at``."""

_AT_START = {"statement_timeout": "10s"}
"""What cannot wait for session.sql, which a timeout of the role's own could cancel."""

_OF_POOLERS = ("AB001", "08P01", "0A000", "42704", "42501")
"""SQLSTATEs that tell of a pooler: session.sql raises the first; the next three refuse what the start asks for. The
last is of a role that may write no PL/pgSQL: its sessions are treated like those behind a pooler, with settings for
each transaction."""


def is_over(error: BaseException) -> bool:
    """Whether a connection that has raised this is of no more use."""
    return isinstance(error, LOST) or not sqlstate(error).startswith(_STATEMENT_ALONE)


class Session(asyncpg.Connection):
    """A session of ours at the server."""

    pooled = False
    """Whether a pooler is between: then only a transaction keeps statements together."""


class PooledSession(Session):
    """A connection to a pooler, which picks a session for each transaction."""

    pooled = True


async def connect(dsn: Dsn, name: str) -> Session:
    """Connect as the application ``name``. Raises :class:`UnavailableError`, which says where to and why not."""
    try:
        return await _connect(dsn, name, PooledSession if dsn.pooled else Session)
    except (*LOST, asyncpg.PostgresError, ValueError) as error:
        msg = f"no connection to {dsn.place}: {explain(error, connecting=True)}"
        raise UnavailableError(msg) from error


async def close(session: Session) -> None:
    """Cancel what the session is doing, wait a moment for its end, and close it. Never raises."""
    with contextlib.suppress(Exception):
        await session.close(timeout=_CLOSE_SECONDS)


async def _connect(dsn: Dsn, name: str, kind: type[Session]) -> Session:
    session: Session | None = None
    try:
        session = await asyncpg.connect(
            dsn.url,
            ssl=True if dsn.public else None,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            statement_cache_size=0 if kind.pooled else 100,
            server_settings={"application_name": name} | ({} if kind.pooled else _AT_START),
            connection_class=kind,
        )
        if not kind.pooled:
            await session.execute(_settings(session), timeout=CONNECT_SECONDS)
    except BaseException as error:
        if session is not None:
            session.terminate()
        if kind.pooled or sqlstate(error) not in _OF_POOLERS:
            raise
    else:
        session.add_log_listener(_pass_on)
        return session
    return await _connect(dsn, name, PooledSession)


def _pass_on(_: object, message: asyncpg.PostgresLogMessage) -> None:
    """Log what our functions in the database warn of."""
    if message.sqlstate == _ROW_DROPPED:
        _log.warning("outbox_row_dropped", detail=message.message)


def _settings(session: Session) -> str:
    return sql.query("session").replace("{pid}", str(session.get_server_pid()))
