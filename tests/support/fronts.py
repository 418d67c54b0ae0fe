"""The proxies of deploy/proxies before a server, each from its file: names and ports are all that is changed."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from tests.support import nginx
from tests.support.certificate import certificate
from tests.support.deploy_tools import tool
from tests.support.processes import ROOT, InFolder, free_port
from tests.support.programs import skip

HOST = "abide.example.com"
"""The name in the files."""


class Place(NamedTuple):
    """What is another one here than in the files."""

    folder: Path
    certificate: Path
    port: int
    upstream: int


def changed(text: str, *pairs: tuple[str, str]) -> str:
    """Return a text in which each first of a pair, which it has, is replaced by the second."""
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def _file(name: str, place: Place, *pairs: tuple[str, str]) -> str:
    return changed((ROOT / "deploy/proxies" / name).read_text(), *pairs).replace(
        "127.0.0.1:8000", f"127.0.0.1:{place.upstream}"
    )


def _nginx(place: Place) -> list[str]:
    if nginx.find() is None:
        skip("not installed: nginx")
    folder = f"/etc/letsencrypt/live/{HOST}"
    http = _file(
        "nginx.conf",
        place,
        ("listen [::]:443 ssl http2;", ""),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{place.port} ssl http2;"),
        (f"{folder}/fullchain.pem", str(place.certificate)),
        (f"{folder}/privkey.pem", str(place.certificate)),
    )
    return nginx.command(place.folder, http)


def _caddy(place: Place) -> list[str]:
    site = f"{HOST}:{place.port} {{\n\tbind 127.0.0.1\n\ttls {place.certificate} {place.certificate}"
    text = _file("Caddyfile", place, (f"{HOST} {{", site))
    path = place.folder / "Caddyfile"
    path.write_text(f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tpersist_config off\n}}\n{text}")
    return [tool("caddy"), "run", "--adapter", "caddyfile", "--config", str(path)]


def _traefik(place: Place) -> list[str]:
    own = f"tls: {{certificates: [{{certFile: {place.certificate}, keyFile: {place.certificate}}}]}}\n"
    dynamic = _file("traefik-abide.yaml", place, ("tls:\n        certResolver: letsencrypt", "tls: {}"))
    (place.folder / "abide.yaml").write_text(dynamic + own)
    static = _file(
        "traefik.yaml",
        place,
        ('":443"', f'"127.0.0.1:{place.port}"'),
        ("/etc/traefik/", f"{place.folder}/"),
        ("/var/lib/traefik/", f"{place.folder}/"),
    )
    path = place.folder / "traefik.yaml"
    path.write_text(static)
    return [tool("traefik"), f"--configFile={path}"]


FRONTS: dict[str, Callable[[Place], list[str]]] = {"nginx": _nginx, "Caddy": _caddy, "Traefik": _traefik}


class Front(InFolder):
    """One proxy before a server, for TLS to :data:`HOST`; starts on entering the context."""

    def __init__(self, name: str, upstream: int) -> None:
        super().__init__("abide-front-")
        self._command = FRONTS[name]
        self._upstream = upstream
        self.port = free_port()

    def __enter__(self) -> Self:
        self.certificate = certificate(self.folder, HOST)
        self.trust = ssl.create_default_context(cafile=str(self.certificate))
        command = self._command(Place(self.folder, self.certificate, self.port, self._upstream))
        self.run(command, {"PATH": os.environ["PATH"], "HOME": str(self.folder)}, self._speaks)
        return self

    def _speaks(self) -> bool:
        """Return whether it shows its certificate: Traefik listens before it has read it."""
        try:
            with socket.create_connection(("127.0.0.1", self.port)) as way:
                self.trust.wrap_socket(way, server_hostname=HOST).close()
        except OSError:
            return False
        return True
