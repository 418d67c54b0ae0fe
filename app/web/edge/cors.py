"""CORS: which requests pages of other origins may send, and which answers they may read (the Fetch standard)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import AbideError
from app.web.edge.caller import see
from app.web.edge.origins import Origins
from app.web.edge.problems import ProblemResponse
from app.web.edge.request import by_name

Header = tuple[bytes, bytes]

_VARY = (b"vary", b"Origin")
_EXPOSED = (b"access-control-expose-headers", b"idempotency-replayed, retry-after")
_PLAIN = (_VARY,)
_CREDENTIALS = (b"access-control-allow-credentials", b"true")

ALLOWED_HEADERS = (
    "authorization", "content-type", "idempotency-key", "last-event-id",
    "accept", "cache-control", "pragma", "x-requested-with",
    "traceparent", "tracestate", "baggage", "b3", "sentry-trace", "x-request-id", "x-correlation-id",
)  # fmt: skip
"""Headers that pages may send: those that the server reads, and those that EventSource polyfills and tracers add."""

_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (b"access-control-allow-headers", ", ".join(ALLOWED_HEADERS).encode()),
    (b"access-control-max-age", b"600"),
)


class Cors:
    """ASGI middleware: adds its headers to every answer, and answers preflights itself."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        await self.around(self.preflight if is_preflight(scope) else self._app, scope, receive, send)

    async def around(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let another application serve one HTTP request, a preflight too; add the headers to its answer."""
        added = self.added(origin_of(scope["headers"]))

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with(message.get("headers", ()), added)
            await send(message)

        await app(scope, receive, send_more)

    def added(self, origin: bytes | None) -> tuple[Header, ...]:
        """Return the headers to add to the answer to a page of this origin; None if no page sent the request."""
        return _PLAIN if origin is None else (*self._permission(origin), _EXPOSED, _VARY)

    def _permission(self, origin: bytes) -> list[Header]:
        """Return the headers that let a page of the origin read an answer.

        Only origins listed by name may send credentials. With ``*``, or with ``null``, which any page can make its
        origin, every page in the world could send requests in the name of its visitor.
        """
        text = origin.decode("latin-1")
        if self._origins.lists(text):
            allowed = (b"access-control-allow-origin", origin)
            return [allowed, _CREDENTIALS] if self._origins.trusts(text) else [allowed]
        return [(b"access-control-allow-origin", b"*")] if self._origins.any else []

    async def preflight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, which a browser sends before a page's request."""
        response: Response
        try:
            self._origins.check(see(by_name(scope["headers"]), None))
        except AbideError as error:
            response = ProblemResponse.of(error)
        else:
            response = Response(status_code=204)
            response.raw_headers += _PREFLIGHT
        await response(scope, receive, send)


def is_preflight(scope: Scope) -> bool:
    """Whether a request is a preflight, which asks what a page may send."""
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    return {b"origin", b"access-control-request-method"} <= {name for name, _ in scope.get("headers", ())}


def origin_of(headers: Sequence[Header]) -> bytes | None:
    """Return the origin of the page that sent the request; None if no page did."""
    return next((value for name, value in headers if name == b"origin"), None)


def _with(headers: Sequence[Header], added: Sequence[Header]) -> list[Header]:
    """Return an answer's headers, and those of ours that it does not have yet: middleware may have added them."""
    if len(added) == 1:  # Vary, which may appear twice
        return [*headers, *added]
    present = {name for name, _ in headers}
    return [*headers, *(header for header in added if header == _VARY or header[0] not in present)]
