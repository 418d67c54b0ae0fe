"""The prefix that a proxy adds to every path and does not remove (``ROOT_PATH``)."""

from __future__ import annotations

from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import UnknownChannelError
from app.web.edge.problems import ProblemResponse

_PROBES = frozenset({"/health/live", "/health/ready"})
"""Paths that are also served without the root path: a platform probes the process directly, not through the proxy."""


class Prefix:
    """ASGI middleware that refuses paths outside the root path. :func:`enter` has marked those inside."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, or refuse it."""
        if scope["type"] == "lifespan" or scope.get("root_path") or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
        await self._outside(scope)(scope, receive, send)

    def _outside(self, scope: Scope) -> Response:
        if scope["type"] == "http" and scope["path"] == self._root_path:
            # Relative, because one more proxy in front may remove a part of the path.
            target = f"{self._root_path.rpartition('/')[2]}/"
            query = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"{target}?{query}" if query else target)
        return ProblemResponse.of(
            UnknownChannelError(f"this server serves only paths below {self._root_path}/ (ROOT_PATH)")
        )


def enter(root_path: str, scope: Scope) -> None:
    """Add the root path to ASGI's ``root_path`` in the scope, if the path is inside it.

    The path of a mounted application comes first. A path outside changes nothing: the server or the outer application
    may have applied the root path already.
    """
    if root_path and within(root_path, get_route_path(scope)) is not None:
        scope["root_path"] = scope.get("root_path", "") + root_path


def within(root_path: str, path: str) -> str | None:
    """Return a path without the root path; None if it is outside."""
    if not root_path:
        return path
    return path.removeprefix(root_path) if path.startswith(f"{root_path}/") else None
