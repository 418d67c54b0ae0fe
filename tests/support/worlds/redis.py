"""Redis alone: with streams, where a commit is on the disk before the answer, and with pub/sub, which keeps nothing."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import ExitStack, suppress
from functools import partial
from typing import ClassVar

import redis
from anyio.from_thread import BlockingPortal
from anyio.to_thread import run_sync

from tests.support.crowd import Crowd
from tests.support.valkey import DURABLE, ValkeyServer
from tests.support.verdict import NOTHING
from tests.support.worlds.fault import Fault
from tests.support.worlds.world import Kinds, World

_FULL, _ROOM = "1", "0"
"""``maxmemory`` with which no write is taken, and with which all are."""


class _RedisWorld(World):
    """One server."""

    def __init__(self, stack: ExitStack, portal: BlockingPortal) -> None:
        super().__init__(stack, portal)
        self._server = stack.enter_context(ValkeyServer(DURABLE if self.history else None))
        self.link = self.lead_to(self._server.port)
        self.url = f"{self.name}://127.0.0.1:{self.link.port}"

    async def operate(self, fault: Fault, crowd: Crowd) -> None:
        match fault.kind:
            case "restart":
                await run_sync(partial(self._server.restart, kill=fault.way == "kill"))
            case "stall":
                self._server.pause()
                await asyncio.sleep(fault.seconds)
                self._server.resume()
            case "kill connections":
                await run_sync(self._server.kill_connections)
            case _:
                await self._lose(fault, crowd)

    async def _lose(self, fault: Fault, crowd: Crowd) -> None:
        raise NotImplementedError


class RedisWorld(_RedisWorld):
    """``redis://``: what happens while the server is away is lost, and told."""

    name = "redis"
    history = False
    faults: ClassVar[Kinds] = {"restart": ("stop", "kill"), "stall": ("",), "kill connections": ("",)}


class RedisStreamWorld(_RedisWorld):
    """``redis-stream://`` with ``appendfsync always``."""

    name = "redis-stream"
    faults: ClassVar[Kinds] = {
        **RedisWorld.faults,
        "client pause": ("WRITE", "ALL"),
        "out of memory": ("",),
        "read only": ("",),
    }
    losses: ClassVar[Kinds] = {"flush": ("",), "lost tail": ("",)}

    async def operate(self, fault: Fault, crowd: Crowd) -> None:
        match fault.kind:
            case "client pause":
                await self._run("CLIENT", "PAUSE", round(fault.seconds * 1000), fault.way)
                await asyncio.sleep(fault.seconds)
            case "out of memory":
                await self._run("CONFIG", "SET", "maxmemory", _FULL)
                await asyncio.sleep(fault.seconds)
                await self._run("CONFIG", "SET", "maxmemory", _ROOM)
            case "read only":
                await self._run("REPLICAOF", "127.0.0.1", "1")
                await asyncio.sleep(fault.seconds)
                await self._run("REPLICAOF", "NO", "ONE")
            case _:
                await super().operate(fault, crowd)

    async def _lose(self, fault: Fault, crowd: Crowd) -> None:
        """Lose everything, or what came after a copy of the data."""
        if fault.kind == "flush":
            with crowd.rewriting(NOTHING):
                await self._run("FLUSHALL")
            return
        saved = crowd.ledger.save()
        data = self._server.folder / "appendonlydir"
        copy = self._server.folder / "copy"
        await run_sync(partial(shutil.copytree, data, copy))
        await asyncio.sleep(fault.seconds)
        with crowd.rewriting(saved):
            await run_sync(self._server.kill)
            shutil.rmtree(data)
            copy.rename(data)
            await run_sync(self._server.start)

    async def _run(self, *words: str | int) -> None:
        with suppress(redis.ConnectionError):  # CLIENT PAUSE ALL answers late, and a stalled server not at all
            await run_sync(self._server.run, *words)
