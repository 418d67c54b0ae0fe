"""The server's address: a check before gunicorn tries it five times, and its URL."""

from __future__ import annotations

import socket

from gunicorn import systemd


def check(host: str, port: int) -> None:
    """Raise :class:`OSError` unless this process can listen there, or has a listener from systemd."""
    if systemd.listen_fds(unset_environment=False):
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
        probe.bind((host, port))


def url(listener: socket.socket) -> str | None:
    """Return the URL by which this machine reaches a listener, without a path; None if it is no TCP socket."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    host, port, *_ = listener.getsockname()
    if host in ("0.0.0.0", "::"):  # noqa: S104 — all addresses, also this one
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
