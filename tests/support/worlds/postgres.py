"""PostgreSQL: a primary on a small disk, standbys that take over, dumps, and others who publish in SQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import ClassVar

import anyio.to_thread
import asyncpg
from anyio.from_thread import BlockingPortal

from app.bus.postgres import migrate
from tests.support import backups
from tests.support.cluster import READ_ONLY, WRITABLE, Cluster
from tests.support.crowd import Crowd
from tests.support.readers import kill
from tests.support.sql_publishers import PREPARED_WAYS, RESTORING, UNANSWERED, WAYS, SqlPublisher
from tests.support.verdict import NOTHING
from tests.support.worlds.fault import Fault
from tests.support.worlds.world import Kinds, World


class PostgresWorld(World):
    """A cluster of its own."""

    name = "postgres"
    faults: ClassVar[Kinds] = {
        "restart": ("fast", "immediate", "crash"),
        "kill listen": ("",),
        "read only": ("",),
        "full disk": ("",),
    }
    losses: ClassVar[Kinds] = {"restore": ("over", "swap", "drop"), "promote": ("",), "truncate": ("",)}
    besides = True

    def __init__(self, stack: ExitStack, portal: BlockingPortal) -> None:
        super().__init__(stack, portal)
        self._cluster = Cluster(stack, portal)
        asyncio.run(migrate(self._cluster.url))
        self.link = self._cluster.servers
        self.url = self._cluster.through(self._cluster.servers)

    async def strike(self, fault: Fault, crowd: Crowd) -> None:
        """Let a fault happen; what kills sessions needs no operator."""
        if fault.kind == "kill listen":
            await self._kill_listen()
        else:
            await super().strike(fault, crowd)

    async def operate(self, fault: Fault, crowd: Crowd) -> None:
        match fault.kind:
            case "restart":
                await self._restart(fault)
            case "read only":
                await self._cluster.sql(READ_ONLY, "SELECT pg_reload_conf()")
                await asyncio.sleep(fault.seconds)
                await self._cluster.sql(WRITABLE, "SELECT pg_reload_conf()")
            case "full disk":
                await self._fill_disk(fault)
            case "restore":
                await self._restore(fault, crowd)
            case "promote":
                await self._promote(fault, crowd)
            case _:
                with crowd.rewriting(NOTHING):
                    await self._cluster.sql("TRUNCATE abide.head, abide.log, abide.key")

    async def publish_besides(self, chance: random.Random, channel: str, crowd: Crowd) -> None:
        """Publish in SQL."""
        address = self._cluster.through(self._cluster.applications)
        publisher = SqlPublisher(address, crowd.ledger, crowd.timeline, unanswered=(*UNANSWERED, *RESTORING))
        datas = [crowd.data(chance.choice((10, 300))) for _ in range(chance.randint(1, 3))]
        await publisher.publish(chance.choice((*WAYS, *PREPARED_WAYS)), channel, datas)

    async def is_empty(self) -> bool:
        """Tell whether the outbox is."""
        rows = "SELECT FROM abide.outbox LIMIT 1"
        return not await self._cluster.primary.execute(rows, database=self._cluster.database)

    async def _restart(self, fault: Fault) -> None:
        postgres = self._cluster.primary
        stop: Mapping[str, Callable[[], None]] = {
            "fast": postgres.stop,
            "immediate": partial(postgres.stop, "immediate"),
            "crash": postgres.crash,
        }
        await anyio.to_thread.run_sync(stop[fault.way])
        await anyio.to_thread.run_sync(postgres.start)

    async def _fill_disk(self, fault: Fault) -> None:
        disk = self._cluster.disk
        await anyio.to_thread.run_sync(disk.fill)
        await asyncio.sleep(fault.seconds)
        disk.free()

    async def _restore(self, fault: Fault, crowd: Crowd) -> None:
        """Restore a dump: over what is there, into a database that takes the name, or where nothing is left."""
        cluster, saved = self._cluster, crowd.ledger.save()
        dump = await anyio.to_thread.run_sync(backups.dump, cluster.primary, cluster.database)
        await asyncio.sleep(fault.seconds)
        with crowd.rewriting(saved):
            if fault.way == "swap":
                await anyio.to_thread.run_sync(backups.swap, cluster.primary, cluster.database, dump)
                return
            if fault.way == "drop":
                await anyio.to_thread.run_sync(backups.drop, cluster.primary, cluster.database)
                await asyncio.sleep(fault.seconds)
            restore = partial(backups.restore, clean=fault.way == "over")
            await anyio.to_thread.run_sync(restore, cluster.primary, cluster.database, dump)

    async def _promote(self, fault: Fault, crowd: Crowd) -> None:
        """Let a standby fall behind and take over."""
        lagging = self._cluster.lagging()
        standby = await anyio.to_thread.run_sync(lagging.__enter__)
        saved = crowd.ledger.save()
        await anyio.to_thread.run_sync(standby.catch_up)
        await anyio.to_thread.run_sync(standby.fall_behind)
        await asyncio.sleep(fault.seconds)
        with crowd.rewriting(saved):
            await anyio.to_thread.run_sync(self._cluster.fail_over, standby)
        await anyio.to_thread.run_sync(lagging.__exit__, None, None, None)

    async def _kill_listen(self) -> None:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it may be away
            connection = await asyncpg.connect(self._cluster.url)
            try:
                await kill(connection, "abide listen")
            finally:
                connection.terminate()
