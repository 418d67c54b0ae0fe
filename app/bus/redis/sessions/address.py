"""Turns the URLs of Redis into where to connect, and as whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

Kind = Literal["single", "cluster", "sentinel"]
"""One server; a cluster; or one server whose address sentinels know."""

_PORT = 6379
_SENTINEL_PORT = 26379


class Server(NamedTuple):
    """The host and port of one server."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says."""

    kind: Kind
    servers: tuple[Server, ...]
    """The server; or some nodes of the cluster, or the sentinels, which know the rest."""
    service: str
    """What the sentinels call the primary; empty without them."""
    database: int
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    tls: dict[str, Any] | None
    """What redis-py's connections take as parameters of TLS; None without TLS."""

    @property
    def place(self) -> str:
        """Hosts and ports, and the database or the service, for logs: never the user or the password."""
        path = "".join(f"/{part}" for part in (self.service, self.database or "") if part)
        return ",".join(map(str, self.servers)) + path


def parse(url: str) -> Address:
    """Read a URL that ``app/config/backends/redis.py`` lets pass."""
    scheme, _, rest = url.strip().partition("://")
    base, _, variant = scheme.lower().partition("+")
    kind: Kind = "cluster" if variant == "cluster" else "sentinel" if variant == "sentinel" else "single"
    parts = urlsplit(f"redis://{rest}")
    user_info, has_user, hosts = parts.netloc.rpartition("@")
    username, has_password, password = user_info.partition(":")
    path = [part for part in parts.path.split("/") if part]
    port = _SENTINEL_PORT if kind == "sentinel" else _PORT
    return Address(
        kind=kind,
        servers=tuple(_server(host, port) for host in hosts.split(",")),
        service=path.pop(0) if kind == "sentinel" else "",
        database=int(path[0]) if path else 0,
        username=unquote(username) or None if has_user else None,
        password=unquote(password) if has_password else None,
        tls=_tls(dict(parse_qsl(parts.query))) if base.startswith("rediss") else None,
    )


def _server(text: str, port: int) -> Server:
    host, has_port, given = text.rpartition(":")
    if not has_port or text.endswith("]"):
        host, given = text, ""
    return Server(host.strip("[]") or "localhost", int(given) if given else port)


def _tls(parameters: dict[str, str]) -> dict[str, Any]:
    checks = parameters.pop("ssl_cert_reqs", "required")
    return parameters | {"ssl_cert_reqs": checks, "ssl_check_hostname": checks == "required"}
