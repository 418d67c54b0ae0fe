"""Access to the server's drain; on a server without one, nothing drains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from starlette.types import Scope

from app.core.ports import DRAIN, Drain


def is_draining(scope: Scope) -> bool:
    """Whether the server is closing its connections before it stops."""
    drain = _drain(scope)
    return drain is not None and drain.has_begun


def lasting(scope: Scope, end: Callable[[], object]) -> AbstractContextManager[object]:
    """Return a context for a response that lasts; within it the server may call ``end`` to finish the response."""
    drain = _drain(scope)
    return nullcontext() if drain is None else drain.lasting(end)


def _drain(scope: Scope) -> Drain | None:
    drain: Drain | None = scope.get("state", {}).get(DRAIN)
    return drain
