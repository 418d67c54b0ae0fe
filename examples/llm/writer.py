"""Writes the runs that pages ask for: reads the channel ``runs``, and publishes what the model writes.

It may be killed at any time. All that it knows is in the log: which runs there are, and how far each of them is.
"""

from __future__ import annotations

import asyncio
import os
import sys

import httpx

from app.client import ClientError, publish, subscribe
from examples.llm.model import Chunk, write

URL = os.environ["ABIDE_URL"]
KEY = os.environ["RUN_KEY"]
JOINED = 0.04
"""Seconds: what the model writes within them is one message."""


async def main() -> None:
    """Write every run that was ever asked for, unless it is whole."""
    runs: dict[str, asyncio.Task[None]] = {}
    async for message in subscribe(URL, "runs", since="earliest"):
        run = message.data.get("run") if isinstance(message.data, dict) else None
        if isinstance(run, str) and (run not in runs or runs[run].done()):
            runs[run] = asyncio.create_task(finish(run))


async def finish(run: str) -> None:
    """Write what is left of a run. Begin again with what the log holds whenever something was in the way."""
    while True:
        try:
            return await write_rest(run)
        except httpx.HTTPError:
            await asyncio.sleep(1)  # the server is away
        except ClientError as error:
            print(f"run {run}: {error}; looking again", file=sys.stderr, flush=True)
            await asyncio.sleep(1)


async def write_rest(run: str) -> None:
    """Publish what is left of a run, as one array of chunks every 40 ms.

    The idempotency key of the n-th message is n. So a message that is sent again is stored once. If another one is in
    its place, because it was under way when this was read, the server refuses it with 409.
    """
    number, chunks = await written(run)
    if chunks and chunks[-1]["type"] == "finish":
        return
    waiting: list[Chunk] = []

    async def read() -> None:
        async for chunk in write(run, skipped=len(chunks)):
            waiting.append(chunk)  # noqa: PERF401 — each is to be sent soon after it is written

    model = asyncio.create_task(read())
    try:
        while waiting or not model.done():
            await asyncio.wait([model], timeout=JOINED)
            if waiting:
                joined, waiting[:] = waiting[:], []
                await publish(URL, f"run.{run}", joined, key=KEY, idempotency_key=str(number), patience=60)
                number += 1
    finally:
        model.cancel()


async def written(run: str) -> tuple[int, list[Chunk]]:
    """Return how many messages of a run the log holds, and their chunks."""
    number, chunks, query = 0, list[Chunk](), {"limit": "1000"}
    async with httpx.AsyncClient(base_url=URL, timeout=10, trust_env=False) as client:
        while True:
            page = (await client.get(f"/run.{run}/history", params=query)).raise_for_status().json()["messages"]
            if not page:
                return number, chunks
            number += len(page)
            chunks += [chunk for message in page for chunk in message["data"]]
            query["since"] = page[-1]["position"]


if __name__ == "__main__":
    asyncio.run(main())
