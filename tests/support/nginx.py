"""nginx, in a folder of its own, with what its user writes into the ``http`` block."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Self

from tests.support.processes import InFolder, free_port
from tests.support.programs import skip

_CONFIGURATION = """\
{preamble}
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {slots}; }}
http {{
  access_log /dev/null;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{http}
}}
"""


def find() -> str | None:
    """Return the path of the program; None where it is not installed."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def command(folder: Path, http: str, *, preamble: str = "", files: int = 1024) -> list[str]:
    """Write the configuration into ``folder`` and return what to run; ``files`` may be open at once."""
    # When few slots are left, nginx closes what it takes for idle: it gets more than it may have files.
    text = _CONFIGURATION.format(
        preamble=preamble,
        user="user root;" if os.geteuid() == 0 else "",
        files=files,
        slots=2 * files,
        folder=folder,
        http=http,
    )
    path = folder / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return [find() or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(path)]


class Proxy(InFolder):
    """nginx before a server, as ``docs/deploy/proxies.md`` says, with a pool of connections that are kept alive.

    Each of ``servers`` are the directives of one ``server``, for one of :attr:`ports`. Starts on entering the context;
    without nginx the test is skipped, or fails with CI=true.
    """

    def __init__(self, upstream: int, *servers: str) -> None:
        super().__init__("abide-nginx-")
        self._upstream = upstream
        self._servers = servers
        self.ports = [free_port() for _ in servers]
        """Where it listens, one for each server."""

    def __enter__(self) -> Self:
        if find() is None:
            skip("not installed: nginx")
        blocks = "\n".join(
            f"  server {{ listen 127.0.0.1:{port};\n{_HEADERS}{server}\n  }}"
            for port, server in zip(self.ports, self._servers, strict=True)
        )
        http = f"  upstream abide {{ server 127.0.0.1:{self._upstream}; keepalive 8; }}\n{blocks}"
        self.run(command(self.folder, http), os.environ, lambda: all(map(_listens, self.ports)))
        return self


_HEADERS = """\
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $http_connection;
    proxy_set_header X-Request-Id $request_id;
    client_max_body_size 16m;
    client_header_timeout 1s;
    client_body_timeout 1s;
    lingering_timeout 50ms;
"""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
