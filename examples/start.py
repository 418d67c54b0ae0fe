"""Runs ``main`` of an example's module, and ends it quietly on Ctrl-C or SIGTERM from its first moment on."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable

from examples.parts import end_with_parent


def end(*_: object) -> None:
    """End, and let every ``with`` end what it has started. A second signal changes nothing."""
    take_signals(signal.SIG_IGN)
    sys.exit()


def take_signals(handler: Callable[..., None] | signal.Handlers) -> None:
    """Handle both signals so. Uvicorn takes them while it serves; when it has ended, it raises them again."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def check_port(example: str) -> int:
    """Return PORT, 8000 unless it is set; exit with what to do if nobody can listen there."""
    port = os.environ.get("PORT") or "8000"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "is no port"
            sys.exit(f"port {port}: {reason}; choose another one: make -C examples/{example} run PORT=8001")
    return int(port)


def run(module: str) -> None:
    """Run a module's ``main``; exit with one line if the port or the database cannot be had."""
    from app.core.errors import UnavailableError  # noqa: PLC0415 — a signal may come while this is imported

    os.environ["PORT"] = str(check_port(module.split(".")[1]))
    try:
        importlib.import_module(module).main()
    except UnavailableError as error:
        sys.exit(f"DATABASE_URL: {error}")


if __name__ == "__main__":
    take_signals(end)
    end_with_parent(signal.SIGTERM)
    run(sys.argv[1])
