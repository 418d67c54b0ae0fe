"""A few sessions with each server, lent for short commands, connected when needed and again when lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from app.bus.redis.sessions.address import Address, Server
from app.bus.redis.sessions.session import Session, connect

_PAUSE_SECONDS = 0.05
"""The least time between two attempts to connect to a server that refuses."""


class Pool:
    """At most ``most`` sessions with each server."""

    def __init__(self, address: Address, name: str, most: int = 1) -> None:
        self._address = address
        self._name = name
        self._most = most
        self._servers: dict[Server, _Sessions] = {}

    def __repr__(self) -> str:
        return f"<Pool {self._name} to {', '.join(map(str, self._servers)) or 'nobody yet'}>"

    @contextlib.asynccontextmanager
    async def session(self, server: Server) -> AsyncIterator[Session]:
        """Wait for a turn and lend a session. Raises :class:`UnavailableError` when it cannot connect."""
        sessions = self._servers.setdefault(server, _Sessions(self._most))
        async with sessions.room:
            session = await self._connected(sessions, server)
            try:
                yield session
            finally:
                if not session.is_closed:
                    sessions.free.append(session)

    async def drop(self, server: Server) -> None:
        """Use other sessions with this server from now on: its name may lead elsewhere."""
        sessions = self._servers.get(server)
        while sessions is not None and sessions.free:
            await sessions.free.pop().close()

    async def close(self) -> None:
        """Close all that are not lent."""
        for server in list(self._servers):
            await self.drop(server)

    async def _connected(self, sessions: _Sessions, server: Server) -> Session:
        while sessions.free:
            session = sessions.free.pop()
            if not session.is_closed:
                return session
        await asyncio.sleep(sessions.tried + _PAUSE_SECONDS - time.monotonic())
        sessions.tried = time.monotonic()
        return await connect(self._address, server, self._name)


class _Sessions:
    """The sessions with one server."""

    def __init__(self, most: int) -> None:
        self.room = asyncio.Semaphore(most)
        self.free: list[Session] = []
        self.tried = float("-inf")
        """When the last attempt to connect began."""
