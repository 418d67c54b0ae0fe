"""Which pages of other origins may read an answer (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_EXPOSED = ["idempotency-replayed", "retry-after"]
_VARY = (b"vary", b"Origin")


class Cors:
    """ASGI middleware: adds its headers to every answer, and leaves what begins with OPTIONS to Starlette's.

    Starlette's takes longer to look at one request than a push takes to serve; preflights are rare.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._any = "*" in origins
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)
        exposed = (b"access-control-expose-headers", ", ".join(_EXPOSED).encode())
        self._to_pages = [(b"access-control-allow-origin", b"*"), exposed] if self._any else [exposed]
        self._options = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
            expose_headers=_EXPOSED,
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["method"] == "OPTIONS":
            await self._options(scope, receive, send)
            return
        added = self.added(scope["headers"])

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, send_more)

    def added(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return what is added to the answer to a request with these headers."""
        origin = next((value for name, value in headers if name == b"origin"), None)
        if origin is None:
            return [_VARY]
        if not self._any and origin in self._origins:
            return [*self._to_pages, (b"access-control-allow-origin", origin), _VARY]
        return [*self._to_pages, _VARY]
