"""A request as a push needs it: its headers by name, and its body."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Receive, Scope

from app.core.errors import MalformedError, TooLargeError


class Incoming:
    """One request, with its headers :func:`by_name`.

    Starlette's Request answers far more questions, and takes longer to make than a push takes to serve.
    """

    __slots__ = ("_receive", "headers", "path", "peer")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.path: str = scope["path"]
        self.headers = by_name(scope["headers"])
        client = scope.get("client")
        self.peer: str | None = client[0] if client else None
        """The address that it comes from."""
        self._receive = receive

    async def body(self, limit: int) -> bytes:
        """Return the body; raise :class:`TooLargeError` as soon as it is known to exceed ``limit`` bytes.

        Raises :class:`MalformedError` when the client goes away before the end.
        """
        if int(self.headers.get("content-length", "0")) > limit:
            raise _too_large(limit)
        event = await self._receive()
        body: bytes = event.get("body", b"")
        while event.get("more_body", False) and len(body) <= limit:
            event = await self._receive()
            body += event.get("body", b"")
        if event["type"] == "http.disconnect":
            msg = "the client went away before its request was complete"
            raise MalformedError(msg)
        if len(body) > limit:
            raise _too_large(limit)
        return body


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the values by names in lower case; of those that stand twice, the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(headers)}


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is over the limit of {limit} bytes")
