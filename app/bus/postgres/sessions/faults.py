"""Explains an error of the database in one line: what is wrong, in the database's own words, and what to do."""

from __future__ import annotations

import os
import re
import socket
import ssl

import asyncpg

from app import COMMAND
from app.bus.outcomes import Wording
from app.core.errors import UnavailableError

WORDING = Wording(
    {
        "commit": "a commit",
        "listen": "LISTEN",
        "poll": "a look at the heads",
        "move": "a move of the outbox",
        "read": "a read",
    },
    waits="s for the database",
    late="pg_stat_activity shows what holds it up",
)

MIGRATE = f"run '{COMMAND} migrate' with a role that may create it"

POOLER = (
    "DATABASE_URL leads to a pooler in transaction mode, through which LISTEN hears nothing: "
    "set DIRECT_DATABASE_URL to the database's own address"
)

SEAL_UNREADABLE = (
    "this server cannot tell messages in notifications from forged ones, so it reads each from the log: "
    "GRANT SELECT ON abide.seal TO the server's role"
)

ELSEWHERE = (
    "LISTEN is in another database than commits, and connects again: if this goes on, correct "
    "DIRECT_DATABASE_URL, which must lead to the same database as DATABASE_URL"
)

_ROW_SECURITY = (
    "servers must see every row: ALTER ROLE … BYPASSRLS for the server's role, "
    "or ALTER TABLE … DISABLE ROW LEVEL SECURITY"
)

_LOCKED = "another session holds a lock: pg_locks and pg_stat_activity show which, pg_terminate_backend(pid) ends it"
_RESTORED = f"the schema 'abide' may have been dropped or changed: restore it, or {MIGRATE}"
_STANDBY = "this is a standby or a replica: use the address of the primary"
_HOST = (
    "check the host in the URL, whether this machine can reach it (over IPv6, through a firewall), "
    "and whether the host has paused the database"
)
_CREATE = "create it (CREATE DATABASE … ENCODING 'UTF8'), or correct the name in the URL"
_WAITS = "pg_stat_activity shows what the sessions named abide wait for"
_POSTGRES = "check that the database runs, and that the port is that of a PostgreSQL server"
_CERTIFICATE = "add sslrootcert=system to the URL for a public authority, or sslrootcert=/path/of/its/certificate.pem"

_WHAT_TO_DO = {
    "08003": _POSTGRES,
    "08P01": "check that the port is that of PostgreSQL, and that a pooler in front of it is in transaction mode",
    "23505": "abide.head is behind the messages in abide.log: restore both tables, or neither",
    "25006": "the database takes no writes: use the primary's address, or switch default_transaction_read_only off",
    "26000": POOLER,
    "28P01": "correct the user or the password in the URL",
    "28000": "correct the user in the URL, or let pg_hba.conf admit it from this machine",
    "3D000": _CREATE,
    "3F000": _RESTORED,
    "42P01": _RESTORED,
    "42P05": POOLER,
    "42703": _RESTORED,
    "42883": _RESTORED,
    "53100": "the database's disk is full: free some space, or add some",
    "53200": "the database is out of memory, or of room for locks: add memory, or raise max_locks_per_transaction",
    "53300": "each worker takes up to 5 connections: raise max_connections, run fewer workers, "
    "or use a pooler and DIRECT_DATABASE_URL",
    "55000": "wait if the database is being restored; use the address of the primary if it is a replica",
    "55P03": _LOCKED,
    "57014": "a timeout of the database, or its administrator, cancelled the statement",
    "57P01": "the database was shut down, or its administrator ended the session",
    "57P03": "the database is starting or stopping, or its host has paused it",
}
"""What to do, by SQLSTATE."""

_BY_TEXT = (
    ("no encryption|SSL off|SSL required|SSL connection is required|insecure connection",
        "add sslmode=require to the URL if the server asks for TLS; else let pg_hba.conf admit this user from here"),
    ("no pg_hba.conf entry", "let pg_hba.conf, or the host's list of addresses, admit this user from this machine"),
    ("too many notifications in the NOTIFY queue",
        "a session that listens stays in a transaction: end it (pg_stat_activity shows it as idle in transaction)"),
    ("row-level security", _ROW_SECURITY),
    ("cannot execute .* during recovery", _STANDBY),
    ("transaction blocks not allowed in statement pooling",
        "PgBouncer pools statements: set pool_mode = transaction and DIRECT_DATABASE_URL, or pool_mode = session"),
    ("unsupported startup parameter", "name it in ignore_startup_parameters of PgBouncer, or take it out of the URL"),
    ("prepared statement .* (does not exist|already exists)", POOLER),
    ("rejected SSL upgrade",
        "if this is no PostgreSQL server, correct host and port; if it offers no TLS, add sslmode=disable to the URL"),
    ("database .* does not exist", _CREATE),
    ("password (was |is )?(not supplied|required|missing)|no password", "write the password into the URL"),
    ("(project|endpoint|compute|database|instance) .*(paused|suspended|disabled|inactive|quota)|tenant.* not found",
        "the host has paused this project, or the user in the URL names another one: check the host's dashboard"),
    ("root certificate file", _CERTIFICATE),
    ("unsupported authentication|SASL|SCRAM", "let pg_hba.conf ask for scram-sha-256 or md5"),
)  # fmt: skip
"""What to do, by a pattern in the database's words, which say more than their SQLSTATE."""

_BY_KIND: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, f"the host name has no address here: {_HOST}"),
    (ssl.SSLCertVerificationError, f"the certificate is not trusted: {_CERTIFICATE}"),
    (FileNotFoundError, "a file or socket in the URL is missing: check sslrootcert, sslcert, sslkey and the host"),
    (ConnectionRefusedError, f"nothing listens there: {_POSTGRES}"),
    (ConnectionError, f"the connection was closed: {_POSTGRES}"),
    (ssl.SSLError, f"no TLS could be agreed on: {_POSTGRES}"),
    (OSError, _HOST),
    (EOFError, f"the connection was closed: {_POSTGRES}"),
    (asyncpg.PostgresConnectionError, f"the connection was closed: {_POSTGRES}"),
)
"""What to do, by the class of a network error; the first that fits counts."""

_DENIED = re.compile(r"permission denied for (schema|table|relation|function|procedure|sequence|view) (\w+)")


def explain(error: BaseException, *, connecting: bool = False) -> str:
    """Say in one line what is wrong and what to do. An :class:`UnavailableError` already says it."""
    if isinstance(error, TimeoutError):
        return f"no answer in time: {_HOST if connecting else _WAITS}"
    if isinstance(error, UnavailableError):
        return str(error)
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return _of_server(error, error.sqlstate)
    return _of_network(error)


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error; empty if the error is not from the server."""
    return (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""


def grant(functions: list[str]) -> str:
    """Say which functions the server's role may not run, and how to let it."""
    names = ", ".join(f"abide.{name}" for name in functions)
    return f"permission denied for function {names} (42501): GRANT EXECUTE ON FUNCTION {names} TO the server's role"


def _of_server(error: asyncpg.PostgresError, state: str) -> str:
    words = _one_line(str(error))
    told = f"{words} ({state})"
    if found := _DENIED.search(words):
        return f"{told}: {_grant(*found.groups(), owner='PL/pgSQL function abide.' in (error.context or ''))}"
    to_do = _by_text(words) or _WHAT_TO_DO.get(state, "")
    if state == "42501" and not to_do:
        to_do = MIGRATE
    return f"{told}: {to_do}" if to_do else told


def _grant(kind: str, name: str, *, owner: bool) -> str:
    if kind == "schema":
        return f"GRANT USAGE ON SCHEMA {name} TO the server's role"
    if kind in ("function", "procedure"):
        return f"GRANT EXECUTE ON FUNCTION abide.{name} TO the server's role"
    if owner:  # functions of ours run with the rights of their owner
        return f"GRANT ALL ON abide.{name} TO the owner of the schema"
    return f"GRANT SELECT ON abide.{name} TO the server's role"


def _of_network(error: BaseException) -> str:
    error = _of_system(error)
    words = _one_line(str(getattr(error, "strerror", None) or error)) or type(error).__name__
    to_do = _by_text(words) or next((to_do for kind, to_do in _BY_KIND if isinstance(error, kind)), "")
    return f"{words}: {to_do}" if to_do else words


def _of_system(error: BaseException) -> BaseException:
    """Return the system's error for one of asyncio's, which joins those of several addresses and has its own words."""
    if found := re.search(r"\[Errno (\d+)\] Connect call failed", str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return error


def _by_text(words: str) -> str | None:
    return next((to_do for pattern, to_do in _BY_TEXT if re.search(pattern, words, re.IGNORECASE)), None)


def _one_line(text: str) -> str:
    return text.split("\n", maxsplit=1)[0].removesuffix(": ")
