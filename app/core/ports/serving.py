"""What the server and the application offer each other besides ASGI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from app.core.ports.connections import Handover, ResponseHandover
from app.wire.request_head import RequestHead

DIRECT = "abide.direct"
"""Where the lifespan's ``state`` has the application's :class:`Direct`."""


class Reply(NamedTuple):
    """The answer to a push, or the refusal of a handshake."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, and values; without Content-Length, which the body says."""
    body: bytes


Answer = Callable[[int, tuple[tuple[bytes, bytes], ...], bytes], None]
"""Sends an answer: the parts of a :class:`Reply`."""


class Direct(Protocol):
    """Takes pushes that have arrived whole, without ASGI's task, events and scope.

    The same pushes are answered the same over ASGI, only slower: by servers that know nothing of this, and where
    something is put around :attr:`app`, such as middleware, which is to see every request.
    """

    app: object
    """The ASGI application that it answers for."""

    def parse(self, head: RequestHead) -> object | None:
        """Return what the request head of a push says; None of another request.

        The server may remember it: the same head always parses to the same result.
        """

    def __call__(self, head: Any, client: str | None, body: bytes, answer: Answer) -> None:  # noqa: ANN401 — what ``parse`` has returned
        """Decide a push, refusals included, and ``answer`` it later, once.

        ``head`` is what :meth:`parse` has returned, ``client`` the address that the push comes from.
        """


DIRECT_SOCKETS = "abide.direct_sockets"
"""Where the lifespan's ``state`` has the application's :class:`DirectSockets`."""


class Admitted(Protocol):
    """A handshake that the application accepts."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that it accepts."""

    def begin(self, handover: Handover) -> None:
        """Serve the WebSocket. Called once, at once; ``handover`` opens it."""


class DirectSockets(Protocol):
    """Takes handshakes of WebSockets that can be decided by their request head, without ASGI's task, events and scope.

    As with :class:`Direct`, the same handshakes are answered the same over ASGI, only slower.
    """

    app: object
    """The ASGI application that it answers for."""

    def parse(self, head: RequestHead, subprotocols: Sequence[str]) -> object | None:
        """Return what the request head of a handshake says; None of one that needs ASGI.

        The server may remember it for heads that differ only in their query and their bearer credential.
        """

    def admit(
        self,
        head: Any,  # noqa: ANN401 — what ``parse`` has returned
        query: bytes,
        bearer: bytes | None,
        client: str | None,
    ) -> Admitted | Reply | None:
        """Decide a handshake, and return the refusal if it is refused; None if ASGI has to decide it.

        ``bearer`` replaces the bearer credential of ``head``, unless it is None; ``client`` is the client's address.
        """


DIRECT_STREAMS = "abide.direct_streams"
"""Where the lifespan's ``state`` has the application's :class:`DirectStreams`."""


class AdmittedStream(Protocol):
    """A request for a response that lasts, which the application answers with 200."""

    headers: tuple[tuple[bytes, bytes], ...]
    """The headers of the response."""

    def begin(self, handover: ResponseHandover) -> None:
        """Send the response. Called once, at once; ``handover`` begins it."""


class DirectStreams(Protocol):
    """Takes requests for responses that last, where they can be accepted at once. As :class:`DirectSockets`."""

    app: object
    """The ASGI application that it answers for."""

    def parse(self, head: RequestHead) -> object | None:
        """Return what the request head of a ``GET`` says; None of one that needs ASGI.

        The server may remember it for heads that differ only in the parts that :meth:`admit` takes.
        """

    def admit(
        self,
        head: Any,  # noqa: ANN401 — what ``parse`` has returned
        query: bytes,
        bearer: bytes | None,
        last_event: bytes | None,
        client: str | None,
    ) -> AdmittedStream | None:
        """Decide a request; None if ASGI has to decide it, refusals included.

        ``bearer`` and ``last_event`` replace the bearer credential and the Last-Event-ID of ``head``, unless they are
        None; ``client`` is the client's address.
        """


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
