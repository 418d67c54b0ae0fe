"""The path that a proxy puts before every request's, and keeps (``ROOT_PATH``)."""

from __future__ import annotations

from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import UnknownChannelError
from app.web.edge.problems import ProblemResponse

_PROBES = frozenset({"/health/live", "/health/ready"})
"""What is served without the root path too: a platform asks the process, not the proxy."""


class Prefix:
    """ASGI middleware: refuses what is outside the root path. What is inside :func:`enter` has found before."""

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
            # Relative, for who is behind one more proxy that takes a part of the path away.
            target = f"{self._root_path.rpartition('/')[2]}/"
            query = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"{target}?{query}" if query else target)
        return ProblemResponse.of(UnknownChannelError(f"there is nothing outside of {self._root_path}/ (ROOT_PATH)"))


def enter(root_path: str, scope: Scope) -> None:
    """Note in ``root_path`` of the scope, as ASGI has it, that a path is inside.

    Where an application is mounted in another, its path there comes first. Of a path that is not inside nothing is
    noted: the server or the other application may have taken the root path for its own.
    """
    if root_path and within(root_path, get_route_path(scope)) is not None:
        scope["root_path"] = scope.get("root_path", "") + root_path


def within(root_path: str, path: str) -> str | None:
    """Return a path without the root path; None where it is outside."""
    if not root_path:
        return path
    return path.removeprefix(root_path) if path.startswith(f"{root_path}/") else None
