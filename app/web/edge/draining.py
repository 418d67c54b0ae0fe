"""What the server says of its drain; nothing on a server that has none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from starlette.types import Scope

from app.core.ports import DRAIN, Drain


def is_draining(scope: Scope) -> bool:
    """Whether the server takes no new connections any more."""
    drain = _drain(scope)
    return drain is not None and drain.has_begun


def lasting(scope: Scope, end: Callable[[], object]) -> AbstractContextManager[object]:
    """Return the context in which a response lasts, until the server calls ``end``."""
    drain = _drain(scope)
    return nullcontext() if drain is None else drain.lasting(end)


def _drain(scope: Scope) -> Drain | None:
    drain: Drain | None = scope.get("state", {}).get(DRAIN)
    return drain
