"""Sends commands to the primaries of their keys: one round trip to each, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AskError, MovedError, ReadOnlyError, RedisError, ResponseError

from app.bus.redis.sessions.address import Server
from app.bus.redis.sessions.faults import LOST
from app.bus.redis.sessions.pool import Pool
from app.bus.redis.sessions.primaries import Primaries
from app.bus.redis.sessions.session import Word
from app.core.errors import UnavailableError


class NotSentError(UnavailableError):
    """Nothing was sent yet: it has to wait for its turn, or for a connection."""


@dataclass(slots=True)
class Request:
    """One command on its way, and what became of it."""

    key: str
    """Decides which server it goes to."""
    words: Sequence[Word]
    answer: Any = None
    """What the server answered; its refusal, the error that lost the connection, or why nothing was sent."""
    replicas: int = 0
    """How many replicas have it, if that was asked for."""
    asking: Server | None = field(default=None, repr=False)
    """The node that a migrating slot is on its way to, for the next attempt."""


class Router:
    """Sends requests over the sessions of ``pool``."""

    def __init__(self, primaries: Primaries, pool: Pool) -> None:
        self._primaries = primaries
        self._pool = pool

    async def send(self, requests: Sequence[Request], *, wait: Sequence[Word] | None = None) -> None:
        """Send the requests once, and note the answers. ``wait`` is a WAIT that follows what worked. Never raises."""
        by_server: dict[Server, list[Request]] = {}
        for request in requests:
            try:
                server = request.asking or await self._primaries.of(request.key)
            except UnavailableError as error:
                request.answer = error
            else:
                by_server.setdefault(server, []).append(request)
        if len(by_server) == 1:
            for server, there in by_server.items():
                await self._send(server, there, wait)
            return
        async with asyncio.TaskGroup() as group:
            for server, there in by_server.items():
                group.create_task(self._send(server, there, wait))

    def last(self, key: str) -> Server | None:
        """Return where the key was last known to be, to tell apart what can wait together; None where all can."""
        return self._primaries.last(key)

    async def renew(self) -> None:
        """Use other connections from now on."""
        await self._pool.close()

    async def _send(self, server: Server, requests: list[Request], wait: Sequence[Word] | None) -> None:
        commands: list[Sequence[Word]] = []
        for request in requests:
            commands += [("ASKING",), request.words] if request.asking else [request.words]
        for request in requests:
            request.answer = NotSentError(f"{server} still waits for what was sent before")
        try:
            async with self._pool.session(server) as session:
                for request in requests:
                    request.answer = TimeoutError()  # if this is cancelled
                answers = await session.calls(commands)
                is_worth = wait and not all(isinstance(answer, ResponseError) for answer in answers)
                replicas = await session.call(*wait) if wait and is_worth else 0
        except (UnavailableError, RedisError, *LOST) as error:
            self._failed(requests, error)
        else:
            for request in requests:
                if request.asking:
                    answers.pop(0)
                request.asking, request.answer, request.replicas = None, answers.pop(0), replicas
                if isinstance(request.answer, ResponseError):
                    await self._redirected(server, request, request.answer)

    def _failed(self, requests: list[Request], error: BaseException) -> None:
        self._primaries.look_again()
        for request in requests:
            request.answer, request.asking = error, None

    async def _redirected(self, server: Server, request: Request, error: ResponseError) -> None:
        """Learn from a refusal where to send the request the next time."""
        if isinstance(error, MovedError):
            self._primaries.moved(error.slot_id, Server(error.host or server.host, error.port))
        elif isinstance(error, AskError):
            request.asking = Server(error.host or server.host, error.port)
        elif isinstance(error, ReadOnlyError) or str(error).startswith("READONLY"):
            self._primaries.look_again()
            await self._pool.drop(server)
