"""One session with one server: how it is opened, what is asked of it, how it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from app.bus.redis.sessions.address import Address, Server
from app.bus.redis.sessions.faults import LOST, explain
from app.core.errors import UnavailableError

CONNECT_SECONDS = 4.0
COMMAND_SECONDS = 10.0
"""A connection that has not answered for this long counts as dead: its peer may be gone without a word."""

RETRY_SECONDS = 0.05
"""The pause before another attempt."""

Word = str | bytes | int
"""A word of a command."""


class Session:
    """A connection. Each method raises what redis-py raises; whatever is no answer of the server ends the session."""

    def __init__(self, connection: Connection, server: Server) -> None:
        self._connection = connection
        self.server = server

    def __repr__(self) -> str:
        return f"<Session with {self.server}{' (closed)' if self.is_closed else ''}>"

    @property
    def is_closed(self) -> bool:
        """Whether it is of no more use."""
        return not self._connection.is_connected

    async def call(self, *words: Word) -> Any:  # noqa: ANN401 — whatever the command answers
        """Run one command and return its answer."""
        (answer,) = await self.calls([words])
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def calls(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Run the commands in one round trip; return an answer, or the server's error, for each."""
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await self.send(commands)
                return [await self._answer() for _ in commands]
        except BaseException:
            await self.close()  # what is still to be answered would be taken for the answer to the next command
            raise

    async def send(self, commands: Sequence[Sequence[Word]]) -> None:
        """Send commands whose answers :meth:`hear` returns."""
        with _closed_is_lost():
            await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    async def hear(self) -> Any:  # noqa: ANN401 — whatever the server sends
        """Wait for what the server sends next."""
        return await self._connection.read_response(timeout=math.inf)

    async def close(self) -> None:
        """Close it. Never raises."""
        with contextlib.suppress(Exception):
            await self._connection.disconnect(nowait=True)

    async def _answer(self) -> Any:  # noqa: ANN401 — as above
        try:
            return await self._connection.read_response(disconnect_on_error=False)
        except ResponseError as error:
            return error


@contextlib.contextmanager
def _closed_is_lost() -> Iterator[None]:
    """Raise OSError where uvloop raises RuntimeError: it has noticed before us that the connection is closed."""
    try:
        yield
    except RuntimeError as error:
        if "handler is closed" not in str(error):
            raise
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


async def connect(address: Address, server: Server, name: str, *, is_sentinel: bool = False) -> Session:
    """Connect to one of the servers of ``address``, as the client ``name``.

    Raises :class:`UnavailableError`, which says where to and why not.
    """
    kind: type[Connection] = Connection if address.tls is None else SSLConnection
    credentials: dict[str, Any] = {"username": address.username, "password": address.password, "db": address.database}
    connection = kind(
        host=server.host,
        port=server.port,
        socket_connect_timeout=None,
        socket_timeout=None,  # redis-py would use wait_for, which may lose a cancellation in Python 3.11
        retry=Retry(NoBackoff(), 0),  # a commit must not be sent twice by somebody who does not look
        protocol=2,
        client_name=name,
        **({} if is_sentinel else credentials),
        **(address.tls or {}),
    )
    try:
        with _closed_is_lost():
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if not isinstance(error, (*LOST, RedisError, ValueError)):
            raise
        msg = f"no connection to {server}: {explain(error, connecting=True)}"
        raise UnavailableError(msg) from error
    return Session(connection, server)
