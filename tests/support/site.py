"""Another server, such as a login or an application: it answers what a test tells it to, in raw bytes."""

from __future__ import annotations

import asyncio
import inspect
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple, Self


class Request(NamedTuple):
    """One request that came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key == name]


Answer = Callable[[Request], bytes | Awaitable[bytes]]


def reply(content: object, status: str = "200 OK", headers: str = "") -> bytes:
    """Return an answer as it travels; what is not bytes is sent as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Site:
    """A server on a free port of 127.0.0.1; an asynchronous context manager.

    ``answer`` returns the bytes for a request, and may be replaced at any time; the connection stays open after them.
    """

    def __init__(self, answer: Answer, certificate: ssl.SSLContext | None = None) -> None:
        self.answer, self._certificate = answer, certificate
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self._open: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    def url(self, path: str = "/") -> str:
        """Return the address of a path."""
        return f"{'https' if self._certificate else 'http'}://localhost:{self.port}{path}"

    async def has_got(self, requests: int) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= requests)

    def hang_up(self) -> None:
        """Stop listening, and close all connections."""
        self._server.close()
        for task in self._open:
            task.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._certificate)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # asyncio would log that its callback was cancelled
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        body = await reader.readexactly(int(dict(headers).get("content-length", 0)))
        request = Request(line, headers, body)
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        answer = self.answer(request)
        writer.write(await answer if inspect.isawaitable(answer) else answer)
        await writer.drain()


async def silence(_: Request) -> bytes:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError
