"""Streams in a cluster whose slots move and whose primaries die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import anyio.to_thread
import pytest
from redis.crc import key_slot

from app.core.errors import OutcomeUnknownError, UnavailableError
from app.core.message import Published, Record
from tests.bus.redis.conftest import streams
from tests.support.readers import Ledger, Worker, healthy, until
from tests.support.valkey import ValkeyCluster, ValkeyServer

CHANNELS = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(replicas=1) as cluster:
        yield cluster


def _slot(channel: str) -> int:
    return key_slot(f"{{{channel}}}".encode())


def _home(cluster: ValkeyCluster, channel: str) -> ValkeyServer:
    """Return the primary that has a channel at first."""
    return cluster.primaries[_slot(channel) * len(cluster.primaries) // 16384]


async def _publish(ledger: Ledger, worker: Worker, stopping: asyncio.Event) -> None:
    serial = 0
    while not stopping.is_set():
        serial += 1
        record = Record(CHANNELS[serial % len(CHANNELS)], ledger.data(40), f"{worker.name}-{serial}")
        (outcome,) = await worker.bus.publish([record])
        while isinstance(outcome, (UnavailableError, OutcomeUnknownError)):
            await asyncio.sleep(0.02)
            (outcome,) = await worker.bus.publish([record])
        ledger.answer(record, outcome)
        await asyncio.sleep(0.005)


def _migrate(cluster: ValkeyCluster, channel: str) -> None:
    """Move the slot of a channel to another primary, key by key."""
    slot, source = _slot(channel), _home(cluster, channel)
    target = next(node for node in cluster.primaries if node is not source)
    source_name, target_name = source.run("CLUSTER", "MYID"), target.run("CLUSTER", "MYID")
    target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source_name)
    source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target_name)
    while keys := source.run("CLUSTER", "GETKEYSINSLOT", slot, 1):
        source.run("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source, *cluster.primaries):
        node.run("CLUSTER", "SETSLOT", slot, "NODE", target_name)


async def test_a_slot_that_moves_under_load_loses_and_doubles_nothing(cluster: ValkeyCluster) -> None:
    """Worker follows a channel to another node of the cluster, and its publishers and readers notice nothing."""
    ledger, stopping = Ledger(43), asyncio.Event()
    async with streams(cluster.url(), "one") as one, streams(cluster.url(), "other") as other:
        readers = [reader for it in (one, other) for reader in await it.follow(*CHANNELS)]
        async with asyncio.TaskGroup() as group:
            for it in (one, other):
                group.create_task(_publish(ledger, it, stopping))
            await readers[0].until(20)
            await anyio.to_thread.run_sync(_migrate, cluster, "a")
            await readers[0].until(len(readers[0].log) + 20)
            stopping.set()
        await ledger.check_log(one.backend, readers)


async def test_a_node_that_stalls_leaves_the_outcomes_of_others_known(cluster: ValkeyCluster) -> None:
    """Worker whose commit has channels on two nodes, of which one stalls, knows what became of the other's."""
    async with streams(cluster.url()) as one:
        stalled = next(node for node in cluster.primaries if node is not _home(cluster, "b"))
        elsewhere = next(f"x{n}" for n in range(100) if _home(cluster, f"x{n}") is stalled)
        stalled.pause()
        try:
            records = [Record("b", b"1"), Record(elsewhere, b"1")]
            known, other = await one.backend.append(records, time.monotonic() + 0.4)
        finally:
            stalled.resume()
        assert isinstance(known, Published)
        assert isinstance(other, (OutcomeUnknownError, UnavailableError))  # a beat may have had its turn before it


async def test_a_primary_that_dies_is_replaced(cluster: ValkeyCluster) -> None:
    """Worker goes on with the replica that takes over, and its readers miss nothing that the replica had."""
    ledger = Ledger(44)
    async with streams(cluster.url()) as one:
        readers = await one.follow(*CHANNELS)
        for channel in CHANNELS:
            await ledger.publish(one, [Record(channel, ledger.data(40)) for _ in range(5)])
        home = _home(cluster, "b")
        await until(lambda: home.info("replication")["slave0"]["lag"] == 0, "the replica has it")
        await anyio.to_thread.run_sync(home.kill)
        for channel in CHANNELS:
            await ledger.insist(one, Record(channel, ledger.data(40), "k"))
        await healthy(one.backend, seconds=30)
        await ledger.check_log(one.backend, readers)
