"""Runs ``main`` of an example's module, if PORT is free, and ends it quietly on Ctrl-C or SIGTERM at any moment."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable

from examples.parts import end_with_parent, refusal


def end(*_: object) -> None:
    """End, and let every ``with`` end what it has started. A second signal changes nothing."""
    take_signals(signal.SIG_IGN)
    sys.exit()


def take_signals(handler: Callable[..., None] | signal.Handlers) -> None:
    """Handle both signals so. Uvicorn takes them while it serves; when it has ended, it raises them again."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


if __name__ == "__main__":
    take_signals(end)
    end_with_parent(signal.SIGTERM)
    port = int(os.environ["PORT"])
    if reason := refusal(port):
        sys.exit(f"port {port}: {reason}. Set PORT to another one, for example PORT=8001")
    importlib.import_module(sys.argv[1]).main()
