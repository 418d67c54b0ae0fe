"""The world of an engine: the engine itself, the server's way to it, and all that can befall it."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import ClassVar

from anyio.from_thread import BlockingPortal

from tests.support.crowd import Crowd
from tests.support.proxy import FaultProxy
from tests.support.verdict import Held
from tests.support.worlds.fault import Fault

Kinds = Mapping[str, Sequence[str]]
"""Kinds of faults, each with its ways."""


class World(ABC):
    """An engine that runs; what it has started ends with ``stack``. Proxies turn in the loop of ``portal``."""

    name: ClassVar[str]
    """The engine's, as in :data:`app.core.engines.ENGINES`."""
    faults: ClassVar[Kinds]
    """By which nothing is lost that was acknowledged."""
    losses: ClassVar[Kinds] = {}
    """By which the log goes back."""
    history: ClassVar[bool] = True
    """Whether it has positions, and keeps what was published."""
    networked: ClassVar[bool] = True
    """Whether there is a network between the server and the engine."""
    besides: ClassVar[bool] = False
    """Whether somebody else than our server publishes."""

    url: str
    """The backend's, as the server is given it."""
    link: FaultProxy | None = None
    """The server's way to the engine, where there is a network between them."""

    def __init__(self, stack: ExitStack, portal: BlockingPortal) -> None:
        self._stack = stack
        self._portal = portal
        self._operating = asyncio.Lock()

    async def strike(self, fault: Fault, crowd: Crowd) -> None:
        """Let one of its faults or losses happen, and end it. There is one operator: faults wait for each other."""
        async with self._operating:
            await self.operate(fault, crowd)

    @abstractmethod
    async def operate(self, fault: Fault, crowd: Crowd) -> None:
        """Do what an operator, or an accident, does to the engine; who is told of losses is the crowd."""

    async def publish_besides(self, chance: random.Random, channel: str, crowd: Crowd) -> None:
        """Publish a little without our server, where ``besides`` says so."""
        raise NotImplementedError

    async def read(self, channels: Iterable[str]) -> Mapping[str, Held]:  # noqa: ARG002 — of other worlds
        """Return what the log of each channel holds, read without our server: nothing where each offset has a message.

        Nobody appends meanwhile.
        """
        return {}

    async def is_empty(self) -> bool:
        """Tell whether all that was published besides is in the log."""
        return True

    def lead_to(self, port: int) -> FaultProxy:
        """Return a new way to a port of this machine."""
        proxy = FaultProxy("127.0.0.1", port)
        return self._stack.enter_context(self._portal.wrap_async_context_manager(proxy))
