"""A check that the server can listen on its address, before gunicorn tries it five times."""

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
