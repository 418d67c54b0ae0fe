"""Parsing in a process of its own, so that the one that serves goes on meanwhile.

To read YAML and to check it holds the interpreter: in a thread, a large file would hold up the event loop again and
again, and for more than half a second where it is full of mistakes. What comes back is taken in small pieces, because
unpickling holds the interpreter as well.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from app.config.diagnostics import MOST_SHOWN, ConfigError
from app.config.environment import Environment
from app.config.load import parse
from app.config.settings import Settings
from app.core.channel import Channel, Registry

_CHUNK = 100
"""Channels in a piece."""

_RUN = f"from {__name__} import serve; serve()"


def parse_in_process(content: bytes, environment: Environment) -> Settings:
    """As :func:`~app.config.load.parse`, though not with all diagnostics; raise :class:`OSError` where it cannot be."""
    command = (sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {_RUN}")
    with subprocess.Popen(  # noqa: S603 — this Python, and nothing of the file
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C on a terminal is not meant for it
    ) as process:
        assert process.stdin is not None  # noqa: S101 — as asked for, and the next one too
        assert process.stdout is not None  # noqa: S101
        pickle.dump((content, environment), process.stdin)
        process.stdin.close()
        try:
            return _receive(process.stdout)
        except EOFError:
            msg = "the process that parses channels.yaml has ended without an answer"
            raise ChildProcessError(msg) from None


def serve() -> None:
    """Answer one request on stdin."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who has asked may be gone
    content, environment = pickle.load(sys.stdin.buffer)  # noqa: S301 — from the process that has started this one
    for piece in _pieces(content, environment):
        pickle.dump(piece, sys.stdout.buffer)


def _pieces(content: bytes, environment: Environment) -> Iterator[Any]:
    try:
        settings = parse(content, environment)
    except ConfigError as error:
        shown = error.diagnostics[:MOST_SHOWN]
        yield ConfigError(shown, more=len(error.diagnostics) - len(shown))
        return
    channels = settings.registry.channels
    yield replace(settings, registry=Registry((), settings.registry.defaults))
    for begin in range(0, len(channels), _CHUNK):
        yield channels[begin : begin + _CHUNK]
    yield ()


def _receive(pipe: IO[bytes]) -> Settings:
    settings = pickle.load(pipe)  # noqa: S301 — as above, and so is the next one
    if isinstance(settings, ConfigError):
        raise settings
    assert isinstance(settings, Settings)  # noqa: S101 — as it was sent
    channels: list[Channel] = []
    while piece := pickle.load(pipe):  # noqa: S301
        channels += piece
    return replace(settings, registry=Registry(tuple(channels), settings.registry.defaults))
