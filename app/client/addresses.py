"""Where requests go, and with which headers."""

from __future__ import annotations

import contextlib
from urllib.parse import quote, urlsplit

from .client_error import ClientError


def address_of(url: str, path: str, *, socket: bool = False) -> str:
    """Return the address of a path below a server's; raise :class:`ClientError` if that is none."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname and parts.port != 0:
            scheme = ("ws" if socket else "http") + "s" * (parts.scheme in {"https", "wss"})
            return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/{quote(path, '/:')}"
    msg = f"{url!r} is not a server's address: expected http://host:port"
    raise ClientError(msg)


def server_of(address: str) -> str:
    """Return the server's part of an address, to be shown."""
    parts = urlsplit(address)
    return f"{parts.scheme.replace('ws', 'http')}://{parts.netloc.rpartition('@')[2]}"


def headers_of(token: str | None, idempotency_key: str | None = None) -> dict[str, str]:
    """Return the headers of a request; raise :class:`ClientError` if one cannot be sent."""
    headers = {"Authorization": token and f"Bearer {token}", "Idempotency-Key": idempotency_key}
    if not all(value.isascii() and value.isprintable() for value in headers.values() if value):
        msg = "a key and a token may hold visible ASCII characters only"
        raise ClientError(msg)
    return {name: value for name, value in headers.items() if value}
