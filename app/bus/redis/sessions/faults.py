"""Explains an error of Redis in one line: what is wrong, in the server's own words, and what to do."""

from __future__ import annotations

import os
import re
import socket
import ssl

from redis import exceptions

from app.bus.outcomes import Wording
from app.core.errors import UnavailableError

_WAITS = "SLOWLOG GET, CLIENT LIST and the server's disk show what holds it up"

WORDING = Wording(
    {"commit": "a commit", "listen": "a subscription", "read": "a read"}, waits="s for Redis", late=_WAITS
)

NOT_READY = "Redis is not ready: try again in a moment"
"""The text for clients."""

LOST = (OSError, exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse, EOFError)
"""The connection is gone, and the outcome of the command is unknown, unless :func:`is_refusal` says otherwise.
TimeoutError is an OSError."""

_HOST = "check the host in the URL, and whether this machine can reach it"
_TLS = "a port with TLS needs rediss in the URL, and one without it redis"
_RUNS = f"check that Redis runs, and that the port is that of a Redis or Valkey server; {_TLS}"

_BY_TEXT = (
    ("WRONGPASS|invalid username-password|AUTH.*called without any password|Authentication required|NOAUTH",
        "correct the user and the password in the URL"),
    ("NOPERM|no permissions", "give the user in the URL the rights that docs/configuration.md names"),
    ("^OOM|command not allowed when used memory", "Redis has reached maxmemory: raise it, or keep less history"),
    ("MISCONF", "Redis cannot write to its disk and takes no writes: free some space, or look into its log"),
    ("READONLY|read only replica", "this is a replica: use the address of the primary, or of the sentinels or cluster"),
    ("LOADING|loading the dataset", "Redis has been started and is loading its data"),
    ("MASTERDOWN|link with master is down", "this is a replica without its primary: use the address of the primary"),
    ("CLUSTERDOWN|cluster is down|slot not served",
        "the cluster has slots that no node serves: CLUSTER INFO and CLUSTER NODES show which"),
    ("cluster support disabled", "this is no cluster: write redis-stream:// without +cluster"),
    ("MOVED|CROSSSLOT", "this is a cluster: write redis-stream+cluster://"),
    ("BUSY ", "a script of another client holds Redis up: SCRIPT KILL ends it"),
    ("DB index is out of range|SELECT is not allowed", "correct the number of the database at the end of the URL"),
    ("NOREPLICAS|not enough good replicas", "Redis has fewer replicas than it was told to wait for: add one"),
    ("max number of clients", "each worker takes up to 5 connections: raise maxclients, or run fewer workers"),
    ("SENTINEL", "this is no sentinel: name the sentinels in the URL, or write redis-stream:// without +sentinel"),
    ("No such master", "correct the service's name in the URL: SENTINEL MASTERS lists them"),
    ("unknown command|non.deterministic commands",
        "this Redis is older than 7.0, or its host has renamed or disabled the command"),
)  # fmt: skip
"""What to do, by a pattern in the server's words."""

_BY_KIND: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, f"the host name has no address here: {_HOST}"),
    (
        ssl.SSLCertVerificationError,
        "the certificate is not trusted: add ssl_ca_certs=/path/of/its/certificate.pem to the URL",
    ),
    (FileNotFoundError, "a file in the URL is missing: check ssl_ca_certs, ssl_certfile and ssl_keyfile"),
    (ConnectionRefusedError, f"nothing listens there: {_RUNS}"),
    (ssl.SSLError, f"no TLS could be agreed on: {_RUNS}"),
    (ConnectionError, f"the connection was closed: {_RUNS}"),
    (OSError, _HOST),
    (EOFError, f"the connection was closed: {_RUNS}"),
    (exceptions.ConnectionError, f"the connection was closed: {_RUNS}"),
)
"""What to do, by the class of a network error; the first that fits counts."""

_IN_SCRIPT = re.compile(r"\.? script: (?:\S+, )?on @user_script:\d+\.?$")
"""What says where in one of our functions it was. The same error of another function is no other error."""

_ERRNO = re.compile(r"\[Errno (\d+)\] Connect call failed|Error (\d+) (?:connecting|while)")


_PASSING = (
    exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError, exceptions.ReadOnlyError,
    exceptions.BusyLoadingError, exceptions.MasterDownError, exceptions.NoScriptError,
)  # fmt: skip
_PASSING_WORDS = re.compile(r"-?(BUSY|NOREPLICAS|READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN)\b")


def is_passing(error: BaseException) -> bool:
    """Whether the server has refused this for now: nothing was done, and another attempt may work."""
    is_known = isinstance(error, _PASSING)
    return is_known or (isinstance(error, exceptions.ResponseError) and bool(_PASSING_WORDS.match(str(error))))


def is_refusal(error: BaseException) -> bool:
    """Whether the server has answered that it does not do this."""
    answers = (exceptions.ResponseError, exceptions.BusyLoadingError, exceptions.AuthenticationError)
    return isinstance(error, answers)


def explain(error: BaseException, *, connecting: bool = False) -> str:
    """Say in one line what is wrong and what to do. An :class:`UnavailableError` already says it."""
    if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
        return f"no answer in time: {f'{_HOST}; {_TLS}' if connecting else _WAITS}"
    if isinstance(error, UnavailableError):
        return str(error)
    if isinstance(error, exceptions.MovedError):
        error = exceptions.ResponseError(f"MOVED {error}")
    error = error if is_refusal(error) else _of_system(error)
    words = (
        str(getattr(error, "strerror", None) or error).split("\n", maxsplit=1)[0].rstrip(".") or type(error).__name__
    )
    words = _IN_SCRIPT.sub("", words)
    to_do = _by_text(words) or next((to_do for kind, to_do in _BY_KIND if isinstance(error, kind)), "")
    return f"{words}: {to_do}" if to_do else words


def _of_system(error: BaseException) -> BaseException:
    """Return the system's error behind one of redis-py's, which has its own words and names the host again."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and not isinstance(error, OSError):
        error = cause
    if found := _ERRNO.search(str(error)):
        number = int(found[1] or found[2])
        return OSError(number, os.strerror(number))
    return error


def _by_text(words: str) -> str | None:
    return next((to_do for pattern, to_do in _BY_TEXT if re.search(pattern, words, re.IGNORECASE)), None)
