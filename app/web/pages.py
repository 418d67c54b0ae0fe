"""What browsers load from here: the console page, and the client that it shares with everybody."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.status import HTTP_304_NOT_MODIFIED

_FILES = Path(__file__).parent / "console"
_CONSOLE = {"/": "index.html"} | {f"/console/{name}": name for name in ("console.js", "console.css", "client.js")}
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}

_DIRECTIVES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src data:",  # the empty icon
    "connect-src 'self' ws: wss:",  # not every browser takes 'self' for sockets
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
CONTENT_SECURITY_POLICY = "; ".join(_DIRECTIVES)

_ALWAYS_ASK = "no-cache"
_HOUR = "public, max-age=3600"


def add_pages(app: FastAPI, *, console: bool) -> None:
    """Add ``/client.js`` and, where it is wanted, the console."""
    _add(app, "/client.js", "client.js", _HOUR)
    if console:
        # The page's own copy of the client is never older than the page.
        for path, name in _CONSOLE.items():
            _add(app, path, name, _ALWAYS_ASK)


def _add(app: FastAPI, path: str, name: str, cache_control: str) -> None:
    endpoint = _serve(_FILES / name, cache_control)
    app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)


def _serve(file: Path, cache_control: str) -> Callable[[Request], Awaitable[Response]]:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {
        "etag": etag,
        "cache-control": cache_control,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    if file.suffix == ".html":
        headers["content-security-policy"] = CONTENT_SECURITY_POLICY

    async def serve(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTP_304_NOT_MODIFIED, headers=headers)
        return Response(content, media_type=_MEDIA_TYPES[file.suffix], headers=headers)

    return serve
