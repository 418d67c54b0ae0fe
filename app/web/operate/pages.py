"""The files that browsers load: the console, the page of the API's documents, and the public client.

They contain no data, and load nothing from other servers.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from starlette.status import HTTP_200_OK, HTTP_304_NOT_MODIFIED

_ROOM = Path(__file__).parents[1]
_CLIENT = "console/client.js"
_CONSOLE_FILES = {
    "": ("console.js", "console.css", "client.js"),
    "landing/": ("overview.js", "seconds.js", "channels.js", "landing.css"),
    "channel/": (
        *("channel.js", "messages.js", "history.js", "publish.js", "arrivals.js", "snippets.js", "tabs.js"),
        "channel.css",
    ),
    "parts/": ("chart.js", "copy.js", "credential.js", "dom.js", "format.js", "json.js", "server.js"),
}
_CONSOLE = {"/": "console/index.html"} | {
    f"/console/{folder}{name}": f"console/{folder}{name}" for folder, names in _CONSOLE_FILES.items() for name in names
}
_DOCS = "docs/index.html"
_DOCS_FILES = {
    "/docs/docs.js": "docs/docs.js",
    "/docs/docs.css": "docs/docs.css",
    "/docs/swagger-ui-bundle.js": "docs/swagger-ui/swagger-ui-bundle.js",
    "/docs/swagger-ui.css": "docs/swagger-ui/swagger-ui.css",
}
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}

_DIRECTIVES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src data:",  # the empty icon, and what swagger-ui.css draws
    "connect-src 'self' ws: wss:",  # not every browser takes 'self' for sockets
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
CONTENT_SECURITY_POLICY = "; ".join(_DIRECTIVES)

_ALWAYS_ASK = "no-cache"
_HOUR = "public, max-age=3600"


def add_pages(app: FastAPI, *, console: bool) -> None:
    """Add ``/client.js`` and, if ``console``, the console."""
    _add(app, "/client.js", _CLIENT, _HOUR)
    if console:
        # The console has its own copy of the client, which is never older than the page.
        for path, name in _CONSOLE.items():
            _add(app, path, name, _ALWAYS_ASK)


def add_docs_files(app: FastAPI) -> None:
    """Add the files that the page of the API's documents loads."""
    for path, name in _DOCS_FILES.items():
        _add(app, path, name, _ALWAYS_ASK)


def docs_page(request: Request, status_code: int = HTTP_200_OK) -> Response:
    """Return the page of the API's documents, which loads ``openapi.json`` from the same folder."""
    return _answer(request, _DOCS, _ALWAYS_ASK, status_code)


def _add(app: FastAPI, path: str, name: str, cache_control: str) -> None:
    async def serve(request: Request) -> Response:
        return _answer(request, name, cache_control)

    _file(name)  # a missing file fails the start, not a request
    app.add_api_route(path, serve, methods=["GET", "HEAD"], include_in_schema=False)


def _answer(request: Request, name: str, cache_control: str, status_code: int = HTTP_200_OK) -> Response:
    file = _file(name)
    headers = {
        "etag": file.etag,
        "cache-control": cache_control,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    if file.media_type == _MEDIA_TYPES[".html"]:
        headers["content-security-policy"] = CONTENT_SECURITY_POLICY
    if status_code == HTTP_200_OK and file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(file.content, status_code, headers, file.media_type)


class _File(NamedTuple):
    content: bytes
    etag: str
    media_type: str


@cache  # a reload adds the pages again
def _file(name: str) -> _File:
    path = _ROOM / name
    content = path.read_bytes()
    return _File(content, f'"{hashlib.sha256(content).hexdigest()[:20]}"', _MEDIA_TYPES[path.suffix])
