"""Runs ``main`` of an example's module, and ends it quietly on Ctrl-C or SIGTERM from its first moment on."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable


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
    importlib.import_module(sys.argv[1]).main()
