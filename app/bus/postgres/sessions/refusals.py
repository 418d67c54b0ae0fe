"""Which refusals of the database call for what, and what clients are told of them."""

from __future__ import annotations

import asyncpg

from app.bus.postgres.sessions.faults import sqlstate
from app.bus.postgres.sessions.session import LOST
from app.core.errors import UnavailableError

NOT_READY = "the database is not ready: try again in a moment"
REFUSED = "the database refused this: try again in a moment"
"""The text for clients. The reason contains names and addresses, so only the log and readiness show it."""

TRY_AGAIN = (
    asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)  # fmt: skip
"""The statement had no effect, and may have one if it is sent again."""

NOTIFY_REFUSED = asyncpg.ProgramLimitExceededError
"""NOTIFY's queue may be full, because some session listens and does not read. Nothing that notifies can commit then."""

_OF_DATA = ("22", "23", "44", "54", "P0")
_OF_PLACES = "23505"
"""Classes of SQLSTATEs that refuse the data, and the one of them that says that the place in the log is taken."""


def of_data(error: BaseException) -> bool:
    """Whether the database refuses the data, rather than the statement."""
    state = sqlstate(error)
    return state.startswith(_OF_DATA) and state != _OF_PLACES


def unavailable(error: BaseException) -> UnavailableError:
    """Return what clients are told of an error after which nothing was stored; its cause is the error."""
    refusal = UnavailableError(NOT_READY if isinstance(error, (UnavailableError, *LOST)) else REFUSED)
    refusal.__cause__ = error
    return refusal
