"""Kafka's protocol: one Tansu, which keeps topics in memory, so that its restart loses all of them."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import ClassVar

from anyio.from_thread import BlockingPortal
from anyio.to_thread import run_sync

from tests.support.crowd import Crowd
from tests.support.tansu import TansuServer
from tests.support.verdict import NOTHING
from tests.support.worlds.fault import Fault
from tests.support.worlds.world import Kinds, World


class KafkaWorld(World):
    """One broker, which sends clients to the link."""

    name = "kafka"
    dense = False  # of two messages under one key the later one counts as nothing
    faults: ClassVar[Kinds] = {"stall": ("",)}
    losses: ClassVar[Kinds] = {"restart": ("",)}

    def __init__(self, stack: ExitStack, portal: BlockingPortal) -> None:
        super().__init__(stack, portal)
        self._server = TansuServer()
        self.link = self.lead_to(self._server.port)
        self._server.advertised_port = self.link.port
        stack.enter_context(self._server)
        self.url = self._server.url("chaos.")

    async def operate(self, fault: Fault, crowd: Crowd) -> None:
        if fault.kind == "stall":
            self._server.pause()
            await asyncio.sleep(fault.seconds)
            self._server.resume()
            return
        with crowd.rewriting(NOTHING):
            await run_sync(self._server.restart)
