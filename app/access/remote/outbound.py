"""Asks another server over HTTP: the one URL that is configured, within a time and a size.

What is sent may be a caller's credentials, and what is received decides who is admitted. So there are no redirects,
no cookies of our own, and no proxies of the environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import orjson

if TYPE_CHECKING:
    from app.access.remote.transport import Transport

MOST_BYTES = 64 * 1024
"""The most bytes of an answer that are read."""

_OK = 200
_REDIRECTS = range(300, 400)

Headers = Iterable[tuple[bytes, bytes]]


class FailedError(Exception):
    """There is no answer that can be used. The text says why, for operators; it shows nothing that was sent."""


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    body: bytes | None
    """None if it is longer than :data:`MOST_BYTES`."""

    def json(self) -> object:
        """Return the value of an answer with status 200. Raises :class:`FailedError`."""
        if self.status != _OK:
            hint = ": redirects are not followed" if self.status in _REDIRECTS else ""
            msg = f"it answered with status {self.status}{hint}"
        elif self.body is None:
            msg = f"its answer is longer than {MOST_BYTES} bytes"
        else:
            try:
                return orjson.loads(self.body)
            except orjson.JSONDecodeError:
                msg = "its answer is not JSON"
        raise FailedError(msg)


class Outbound:
    """Requests to one URL, at most ``at_once`` at a time.

    ``timeout`` is in seconds, and covers everything: the wait for others, the name, the connection and the answer.
    """

    def __init__(self, url: str, *, timeout: float, at_once: int) -> None:
        self._url, self._timeout = url, timeout
        self._places = asyncio.Semaphore(at_once)
        self._opening = asyncio.Lock()
        self._transport: Transport | None = None

    async def send(self, method: str, headers: Headers = (), content: bytes | None = None) -> Reply:
        """Send one request; return the answer, whatever its status. Raises :class:`FailedError`."""
        try:
            async with asyncio.timeout(self._timeout), self._places:
                transport = await self._opened()
                return await transport.exchange(method, self._url, headers, content)
        except TimeoutError:
            msg = f"it has not answered within {self._timeout:g} s"
        raise FailedError(msg)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.aclose()

    async def _opened(self) -> Transport:
        async with self._opening:
            if self._transport is None:
                self._transport = await asyncio.to_thread(_open)
            return self._transport


def _open() -> Transport:
    """Load the library and the certificates of all authorities, which takes long enough for a thread."""
    from app.access.remote.transport import Transport  # noqa: PLC0415 — most servers ask nobody, and do without its memory

    return Transport()
