"""What the server and the application offer each other besides ASGI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

DIRECT = "abide.direct"
"""Where the lifespan's ``state`` has the application's :class:`Direct`."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Head:
    """What stands before a request's body. The same object may come again, for the same bytes."""

    path: str
    """Decoded, with the root path, without the query."""
    headers: Sequence[tuple[bytes, bytes]]
    """Names in lower case, and values, in their order."""


Reply = Callable[[int, Sequence[tuple[bytes, bytes]], bytes], None]
"""Answers with a status, headers but for Content-Length, and a body. To be called once."""


class Direct(Protocol):
    """Who may answer a ``POST`` that has arrived whole, past ASGI: without a task, events and a scope.

    What it does not take goes to the ASGI application, which serves everything: so on a server that
    knows nothing of this the same is answered, only slower.
    """

    def __call__(self, head: Head, client: str | None, body: bytes, reply: Reply) -> bool:
        """Take the request, and ``reply`` later, or return False and have done nothing."""


DRAIN = "abide.drain"
"""The key of the server's :class:`Drain` in a scope's ``state``."""


class Drain(Protocol):
    """Lets the server end its connections and responses gradually before it stops."""

    has_begun: bool
    """Whether the server accepts no new connections any more."""

    def lasting(self, end: Callable[[], object]) -> AbstractContextManager[object]:
        """Return a context for a response that lasts; within it the server may call ``end`` to finish the response.

        The server calls it when the response's turn in the drain has come, or when the response has reached the
        greatest age of a connection. It must not block, and may be called again.
        """


INTAKE = "abide.intake"
"""The key of the application's :class:`Intake` in the lifespan's ``state``."""


class Intake(Protocol):
    """Limits the bytes of unfinished messages that are buffered for all clients together."""

    def grow(self, held: int, more: int) -> bool:
        """Add ``more`` bytes to a message of ``held``; return False, and add nothing, if that exceeds the limit."""

    def release(self, held: int) -> None:
        """Subtract the bytes of a message that is no longer buffered."""


class _Unbounded(Intake):
    """Has no limit."""

    def grow(self, held: int, more: int) -> bool:  # noqa: ARG002 — a port's signature
        return True


UNBOUNDED: Intake = _Unbounded()  # type: ignore[abstract] # releasing nothing is its purpose
"""An intake without a limit."""
