"""One subscriber in its own process. It does nothing else, so it measures the server and not itself.

``python -m loadtests.probe URL CHANNEL…`` prints a JSON array twice a second: the milliseconds from publishing to
receiving each message. It ends when its stdin closes. The clocks of publisher and probe must agree.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence

from app.client import ClientError, subscribe

EVERY = 0.5  # seconds


async def watch(url: str, channels: Sequence[str]) -> None:
    """Follow channels until stdin ends; raise an ExceptionGroup of :class:`ClientError` for refusals."""
    latencies: list[float] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_follow(url, channel, latencies)) for channel in channels]
        tasks.append(group.create_task(_print(latencies)))
        await _end_of_stdin()
        for task in tasks:
            task.cancel()
    _flush(latencies)


async def _follow(url: str, channel: str, latencies: list[float]) -> None:
    key = os.environ.get("LOCUST_SUBSCRIBE_TOKEN")
    async for message in subscribe(url, channel, key=key, on_notice=_say):
        received = time.time()
        if isinstance(message.data, dict) and isinstance(at := message.data.get("at"), float):
            latencies.append((received - at) * 1000)


async def _print(latencies: list[float]) -> None:
    while True:
        await asyncio.sleep(EVERY)
        _flush(latencies)


def _flush(latencies: list[float]) -> None:
    sys.stdout.write(json.dumps([round(latency, 3) for latency in latencies]) + "\n")
    sys.stdout.flush()
    latencies.clear()


async def _end_of_stdin() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _say(text: str) -> None:
    sys.stderr.write(f"probe: {text}\n")


def main() -> int:
    """Run it; 1 if the server refuses."""
    try:
        asyncio.run(watch(sys.argv[1], sys.argv[2:]))
    except* ClientError as refusals:
        _say("; ".join(map(str, refusals.exceptions)))
        return_code = 1
    else:
        return_code = 0
    return return_code


if __name__ == "__main__":
    sys.exit(main())
