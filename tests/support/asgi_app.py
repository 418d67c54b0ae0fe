"""A small ASGI application, and a worker with little patience, to test the process edge alone."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from app.core.ports import Writer
from app.server.garbage import LOOK_SECONDS
from app.server.http.connection import HttpProtocol
from app.server.http.deadlines import Times
from app.server.worker import AbideWorker
from app.wire import frames
from app.wire.http1 import header_line
from tests.support.fuzz.run import memory

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEADER_TIMEOUT = 0.4
"""Seconds; see :class:`~app.server.http.deadlines.Times`."""

BODY_TIMEOUT = 0.6
"""Seconds; see :class:`~app.server.http.deadlines.Times`."""

WHOLE_TIMEOUT = 2.0
"""Seconds; see :class:`~app.server.http.deadlines.Times`."""

LONG = 1.2
"""Seconds that the slow paths take: longer than either timeout."""

BIG = 32 * 1024 * 1024
"""Bytes of the answer of ``/big``."""

COMMAND = (
    *(sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py"),
    *("--worker-class", "tests.support.asgi_app.ImpatientWorker", "tests.support.asgi_app:app"),
)
"""Runs the application under gunicorn with the project's settings and the worker below."""


class ImpatientProtocol(HttpProtocol):
    """The protocol with timeouts that a test can wait for."""

    times = Times(header=HEADER_TIMEOUT, body=BODY_TIMEOUT, whole=WHOLE_TIMEOUT, linger=BODY_TIMEOUT)


class ImpatientWorker(AbideWorker):
    """The worker with that protocol."""

    CONFIG_KWARGS = AbideWorker.CONFIG_KWARGS | {"http": ImpatientProtocol}


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Serve the lifespan, two echoes over WebSocket, and the paths below."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await (_detached if scope["path"] == "/detached" else _echo)(scope, receive, send)
    else:
        await _PATHS[scope["path"]](receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


codes: list[int] = []
"""The close codes that the echoes were told, where the application runs in the test's process."""


async def _echo(scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG001 — an ASGI application
    """Echo by what ASGI has."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    codes.append(message["code"])


async def _detached(scope: Message, receive: Receive, send: Send) -> None:
    """Echo by what the extension has."""
    await receive()
    await send({"type": "websocket.accept"})
    peer = EchoPeer()
    peer.writer = scope["extensions"]["abide.fanout"](peer)


class EchoPeer:
    """Sends back what it receives, and reads nothing while that does not leave."""

    writer: Writer

    def received(self, data: bytes, *, text: bool) -> None:
        self.writer.write(frames.frame(frames.TEXT if text else frames.BINARY, data))

    def max_size(self) -> int:
        return 2**63

    def full(self) -> None:
        self.writer.pause()

    def writable(self) -> None:
        self.writer.resume()

    def closed(self, code: int) -> None:
        codes.append(code)


async def _ok(receive: Receive, send: Send) -> None:
    """Answer with the number of bytes of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await _answer(send, str(size).encode())


async def _late(receive: Receive, send: Send) -> None:
    """Read the body only after a while."""
    await asyncio.sleep(LONG)
    await _ok(receive, send)


async def _stream(receive: Receive, send: Send) -> None:
    """Answer at once with ``begin``, and with ``end`` after a while."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begin", "more_body": True})
    await asyncio.sleep(LONG)
    await send({"type": "http.response.body", "body": b"end"})


async def _big(receive: Receive, send: Send) -> None:  # noqa: ARG001 — an ASGI handler
    """Answer with more than any buffer on the way takes."""
    await _answer(send, bytes(BIG))


async def _early(receive: Receive, send: Send) -> None:  # noqa: ARG001 — an ASGI handler
    """Answer without a look at the body."""
    await _answer(send, b"early")


async def _boom(receive: Receive, send: Send) -> None:  # noqa: ARG001 — an ASGI handler
    """Fail with a secret in the exception."""
    msg = "cannot reach postgres://abide:hunter2@db.internal/abide"
    raise RuntimeError(msg)


async def _log(receive: Receive, send: Send) -> None:
    """Log secrets, by name and by looks."""
    structlog.get_logger("tests").info("told", password="hunter2", header="Bearer hunter2", channel="news")
    await _ok(receive, send)


async def _burst(receive: Receive, send: Send) -> None:  # noqa: ARG001 — an ASGI handler
    """Hold some 80 MB of small objects, and a remembered line in each MB; answer with the MiB in memory then."""
    held = []
    for number in range(60):
        held.append([str(text) for text in range(20_000)])
        header_line(b"x-number", b"%d" % number)
    await asyncio.sleep(2 * LOOK_SECONDS)
    await _answer(send, str(memory(os.getpid())).encode())


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_PATHS = {
    "/big": _big, "/burst": _burst, "/early": _early, "/ok": _ok, "/late": _late, "/stream": _stream, "/boom": _boom,
    "/log": _log,
}  # fmt: skip
