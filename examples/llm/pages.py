"""Serves the page and client.js, as your web server would."""

from __future__ import annotations

import os
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
PAGE = (HERE / "index.html").read_bytes().replace(b"ABIDE_URL", os.environ["ABIDE_URL"].encode())
FILES = {
    "/": ("text/html; charset=utf-8", PAGE),
    "/client.js": ("text/javascript", (HERE.parents[1] / "app" / "web" / "console" / "client.js").read_bytes()),
}


class Handler(BaseHTTPRequestHandler):
    """Answers with one of the files."""

    def do_GET(self) -> None:
        """Send a file, or 404."""
        kind, content = FILES.get(urlsplit(self.path).path, ("text/plain", b""))
        self.send_response(HTTPStatus.OK if content else HTTPStatus.NOT_FOUND)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler) as server:
        server.serve_forever()
