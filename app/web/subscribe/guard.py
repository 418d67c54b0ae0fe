"""A bug in one connection's code ends that connection and no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import structlog

from app.core.errors import AbideError
from app.core.ports import Meter
from app.web.edge.access import Line

_log = structlog.get_logger(__name__)


class Crashable(Protocol):
    """A class with :func:`guarded` methods."""

    def crash(self, error: BaseException) -> None:
        """End the connection because of a bug. Never raises."""


P = ParamSpec("P")
G = TypeVar("G", bound=Crashable)


def guarded(method: Callable[Concatenate[G, P], None]) -> Callable[Concatenate[G, P], None]:
    """Make an error in a connection's method end that connection: the caller has others to serve."""

    @wraps(method)
    def call(self: G, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            self.crash(error)

    return call


def report(error: BaseException, line: Line, meter: Meter) -> None:
    """Log a connection's bug with its trace, and count it."""
    if isinstance(error, AbideError) and error.__cause__ is not None:  # the core wraps unexpected errors
        error = error.__cause__
    meter.failed("connection")
    _log.error("connection_failed", path=line.path, **{f"{line.kind}_id": line.id}, exc_info=error)
