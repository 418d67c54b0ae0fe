"""Parses a large file in a separate process, so that the server keeps serving.

Parsing YAML holds the interpreter lock. In a thread, a large file would block the event loop again and again, and for
more than half a second if it is full of mistakes. The result comes back in small pieces, because unpickling holds the
lock as well.
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
from app.config.schemas.files import SchemaFiles
from app.config.settings import Settings
from app.core.channel import Channel, Registry

_CHUNK = 100
"""Channels in a piece."""

_RUN = f"from {__name__} import serve; serve()"


def parse_in_process(content: bytes, environment: Environment, files: SchemaFiles) -> Settings:
    """As :func:`~app.config.load.parse`, with fewer diagnostics. Raises :class:`OSError` if no process can start."""
    command = (sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {_RUN}")
    with subprocess.Popen(  # noqa: S603 — this Python; nothing comes from the file
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal must not reach it
    ) as process:
        assert process.stdin is not None  # noqa: S101 — a PIPE was asked for
        assert process.stdout is not None  # noqa: S101
        pickle.dump((content, environment, files), process.stdin)
        process.stdin.close()
        try:
            files.contents = pickle.load(process.stdout)  # noqa: S301 — it comes from our own child
            return _receive(process.stdout)
        except EOFError:
            msg = "the process that parses channels.yaml ended without an answer"
            raise ChildProcessError(msg) from None


def serve() -> None:
    """Answer one request on stdin."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the parent may be gone
    content, environment, files = pickle.load(sys.stdin.buffer)  # noqa: S301 — it comes from the parent
    for piece in _pieces(content, environment, files):
        pickle.dump(piece, sys.stdout.buffer)


def _pieces(content: bytes, environment: Environment, files: SchemaFiles) -> Iterator[Any]:
    try:
        settings = parse(content, environment, files)
    except ConfigError as error:
        yield files.contents
        shown = error.diagnostics[:MOST_SHOWN]
        yield ConfigError(shown, more=len(error.diagnostics) - len(shown))
        return
    channels = settings.registry.channels
    yield files.contents
    yield replace(settings, registry=Registry((), settings.registry.defaults))
    for begin in range(0, len(channels), _CHUNK):
        yield channels[begin : begin + _CHUNK]
    yield ()


def _receive(pipe: IO[bytes]) -> Settings:
    settings = pickle.load(pipe)  # noqa: S301 — it comes from our own child
    if isinstance(settings, ConfigError):
        raise settings
    assert isinstance(settings, Settings)  # noqa: S101 — the child sends it first
    channels: list[Channel] = []
    while piece := pickle.load(pipe):  # noqa: S301
        channels += piece
    return replace(settings, registry=Registry(tuple(channels), settings.registry.defaults))
