"""Where the brokers are, and how this server proves who it is."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from app.core.errors import UnavailableError

PORT = 9092


@dataclass(frozen=True, slots=True)
class Address:
    """A cluster, by some of its brokers."""

    servers: tuple[tuple[str, int], ...]
    """Hosts and ports to begin with."""
    prefix: str
    """What the names of our topics begin with."""
    is_secure: bool = False
    """Whether to use TLS."""
    ca: str | None = None
    """The file with the authority's certificate; None for those that the system trusts."""
    user: str | None = None
    """Whom to log in as by SASL; None for nobody."""
    password: str = field(default="", repr=False)
    mechanism: str = "PLAIN"

    @property
    def place(self) -> str:
        """The brokers, for people."""
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.servers)

    def options(self) -> dict[str, Any]:
        """Return the options of a connection; raise :class:`UnavailableError` where a file of them cannot be read."""
        protocol = ("SASL_" if self.user is not None else "") + ("SSL" if self.is_secure else "PLAINTEXT")
        options: dict[str, Any] = {"security_protocol": protocol if self.user or self.is_secure else "PLAINTEXT"}
        if self.is_secure:
            try:
                options["ssl_context"] = ssl.create_default_context(cafile=self.ca)
            except (OSError, ssl.SSLError) as error:
                msg = f"kafka.ca: {self.ca} holds no certificate that can be read: {error}"
                raise UnavailableError(msg) from error
        if self.user is not None:
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password,
            }
        return options


def parse(url: str, *, tls: bool = False, ca: str | None = None, mechanism: str = "PLAIN") -> Address:
    """Read a URL that the configuration has accepted; the options are those of ``kafka:``."""
    scheme, _, rest = url.strip().partition("://")
    authority, _, prefix = rest.partition("/")
    user_info, _, hosts = authority.rpartition("@")
    user, _, password = user_info.partition(":")
    return Address(
        servers=tuple(_server(text) for text in hosts.split(",")),
        prefix=prefix,
        is_secure=tls or scheme.lower() == "kafkas",
        ca=ca,
        user=unquote(user) if user_info else None,
        password=unquote(password),
        mechanism=mechanism,
    )


def _server(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    return host.strip("[]") or "localhost", int(port or PORT)
