"""Kafka's protocol: one Tansu, which keeps topics in memory, so that its restart loses all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import ClassVar

from anyio.from_thread import BlockingPortal
from anyio.to_thread import run_sync

from tests.support.crowd import Crowd
from tests.support.kafka import held
from tests.support.processes import free_port
from tests.support.proxy import FaultProxy
from tests.support.tansu import TansuServer
from tests.support.verdict import NOTHING, Held
from tests.support.worlds.fault import Fault
from tests.support.worlds.world import Kinds, World

_PREFIX = "chaos."


class KafkaWorld(World):
    """One broker, which sends clients to the link."""

    name = "kafka"
    faults: ClassVar[Kinds] = {"stall": ("",)}
    losses: ClassVar[Kinds] = {"restart": ("",)}
    link: FaultProxy

    def __init__(self, stack: ExitStack, portal: BlockingPortal) -> None:
        super().__init__(stack, portal)
        self._server = TansuServer()
        self.link = self.lead_to(self._server.port)
        self._server.advertised_port = self.link.port
        stack.enter_context(self._server)
        self.url = self._server.url(_PREFIX)

    async def operate(self, fault: Fault, crowd: Crowd) -> None:
        if fault.kind == "stall":
            self._server.pause()
            await asyncio.sleep(fault.seconds)
            self._server.resume()
            return
        with crowd.rewriting(NOTHING):
            self._portal.call(self.link.lead_to, free_port())  # so that nobody reads what comes after what is read here
            self._portal.call(self.link.cut)
            crowd.ledger.read(await self.read({log.channel for log in crowd.logs}))
            await run_sync(self._server.restart)
            self._portal.call(self.link.lead_to, self._server.port)

    async def read(self, channels: Iterable[str]) -> Mapping[str, Held]:
        """Return what the topics hold."""
        return {channel: await held(self._server.port, f"{_PREFIX}{channel}") for channel in channels}
