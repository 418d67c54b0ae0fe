"""What a worker on Kafka costs that follows 1, 1,000 or 10,000 channels: at rest, and at 100 messages/s.

Run it with ``python -m benchmarks.kafka_channels``; ``--channels`` takes other numbers. The broker is Tansu, in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Coroutine, Iterator
from typing import Any, NamedTuple

import structlog
import uvloop
from aiokafka.conn import create_conn
from aiokafka.protocol.admin import CreateTopicsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest

from app.bus.kafka import KafkaBackend, parse
from app.core.message import Record
from benchmarks.peers.machine import cpu_seconds, resident
from tests.support.kafka import batch_of
from tests.support.readers import ALL, healthy, until
from tests.support.tansu import TansuServer

RATE = 100
WAITS = (10, 100, 500)
"""Milliseconds that fetches of a raw connection wait, beside the worker's."""

_AT_ONCE = 50
_CREATED_AT_ONCE = 500
_SETTLE_SECONDS = 2.0


class _Used(NamedTuple):
    """CPU seconds of a second."""

    worker: float
    broker: float


def main() -> None:
    """Measure each number of channels in a process of its own, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", default="1,1000,10000", help="how many are followed (1,1000,10000)")
    parser.add_argument("--seconds", type=float, default=10, help="how long each measurement takes")
    options = parser.parse_args()
    print(f"channels   KiB each   CPU at rest: worker, broker   at {RATE} messages/s: worker, broker   p50 until told")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for count in map(int, options.channels.split(",")):
            print(pool.apply(_run, (count, options.seconds)), flush=True)
        for wait in WAITS:
            print(f"a raw pair of connections, fetches of {wait} ms: p50 {pool.apply(_run_raw, (wait,)) * 1000:.1f} ms")


def _run(count: int, seconds: float) -> str:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return uvloop.run(_measure(count, seconds))


def _run_raw(wait: int) -> float:
    return uvloop.run(_raw(wait))


async def _measure(count: int, seconds: float) -> str:
    """Follow so many channels; return a line of the report."""
    with TansuServer() as broker:
        names = [f"c{number}" for number in range(count)]
        await _create(broker.port, names)
        backend = KafkaBackend(parse(broker.url()), retention=lambda _: ALL)
        await backend.connect()
        await healthy(backend)
        gc.collect()
        before = resident([os.getpid()])
        for some in _batched(names, _AT_ONCE):
            await asyncio.gather(*map(backend.follow, some))
        gc.collect()
        memory = resident([os.getpid()]) - before
        await asyncio.sleep(_SETTLE_SECONDS)
        idle = await _used(broker.pid, asyncio.sleep(seconds))
        sent: dict[bytes, float] = {}
        latencies: list[float] = []
        reading = asyncio.create_task(_read(backend, sent, latencies))
        busy = await _used(broker.pid, _publish(backend, names, sent, seconds))
        await until(lambda: len(latencies) == len(sent), "all messages are handed out")
        reading.cancel()
        await backend.disconnect()
    return (
        f"{count:>8,} {memory / count / 1024:>10.1f} {idle.worker:>16.1%}, {idle.broker:.1%} "
        f"{busy.worker:>26.1%}, {busy.broker:.1%} {statistics.median(latencies) * 1000:>20.0f} ms"
    )


async def _create(port: int, names: list[str]) -> None:
    connection = await create_conn("127.0.0.1", port, request_timeout_ms=60_000)
    for some in _batched(names, _CREATED_AT_ONCE):
        topics: list[Any] = [(name, 1, 1, [], []) for name in some]
        await connection.send(CreateTopicsRequest(topics, 60_000, False))  # noqa: FBT003 — by position
    await connection.close()


def _batched(names: list[str], most: int) -> Iterator[list[str]]:
    return (names[begin : begin + most] for begin in range(0, len(names), most))


async def _used(broker: int, work: Coroutine[Any, Any, object]) -> _Used:
    began, worker, other = time.monotonic(), time.process_time(), cpu_seconds([broker])
    await work
    took = time.monotonic() - began
    return _Used((time.process_time() - worker) / took, (cpu_seconds([broker]) - other) / took)


async def _publish(backend: KafkaBackend, names: list[str], sent: dict[bytes, float], seconds: float) -> None:
    begin = time.monotonic()
    for number in range(round(seconds * RATE)):
        await asyncio.sleep(begin + number / RATE - time.monotonic())
        data = b"%d" % number
        sent[data] = time.monotonic()
        await backend.append([Record(random.choice(names), data)])  # noqa: S311 — any will do


async def _read(backend: KafkaBackend, sent: dict[bytes, float], latencies: list[float]) -> None:
    while True:
        news = await backend.next_batch()
        latencies += [time.monotonic() - sent[message.data] for message in getattr(news, "messages", ())]


async def _raw(wait: int) -> float:
    """Return the median time from a produce until a fetch has it, where nothing but two connections is between."""
    latencies = []
    with TansuServer() as broker:
        await _create(broker.port, ["raw"])
        producing, fetching = [await create_conn("127.0.0.1", broker.port, request_timeout_ms=5000) for _ in range(2)]
        sent: list[float] = []

        async def produce() -> None:
            for _ in range(5 * RATE):
                await asyncio.sleep(random.expovariate(RATE))
                sent.append(time.monotonic())
                await producing.send(ProduceRequest(None, -1, 5000, [("raw", [(0, batch_of([b"1"]))])]))

        work, offset = asyncio.create_task(produce()), 0
        while not work.done() or offset < len(sent):
            answer = await fetching.send(FetchRequest(wait, 1, 2**20, 1, [("raw", [(0, offset, 2**20)])]))
            now, head, blob = time.monotonic(), answer.topics[0][1][0][3], answer.topics[0][1][0][-1]
            if blob:
                latencies += [now - at for at in sent[offset:head]]
                offset = head
        await asyncio.gather(producing.close(), fetching.close())
    return statistics.median(latencies)


if __name__ == "__main__":
    main()
