"""Peer: FastAPI and broadcaster, in the shape in which the pattern is usually written down.

A route to push, a WebSocket route that subscribes and sends, a task for each direction. BROADCAST_URL names the adapter
of broadcaster's that it uses. What is not broadcaster's is said where it is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from broadcaster import Broadcast
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel

URL = os.environ.get("BROADCAST_URL", "memory://")


def _adapter() -> Broadcast:
    """Return the adapter that the URL names; Kafka's waits for as many acknowledgements as ours does."""
    if not URL.startswith("kafka:"):
        return Broadcast(URL)
    from benchmarks.peers.blog_kafka import AllAcknowledged  # noqa: PLC0415 — the others need no driver

    return Broadcast(backend=AllAcknowledged(URL))


broadcast = _adapter()
turn = asyncio.Lock() if URL.startswith("postgres") else nullcontext()
"""Its one connection to Postgres refuses a second publish while one runs."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect for as long as the application runs."""
    await broadcast.connect()
    yield
    await broadcast.disconnect()


app = FastAPI(lifespan=lifespan)


class Publish(BaseModel):
    """The body of a push."""

    channel: str = "lebowski"
    message: str


@app.post("/push")
async def push_message(publish: Publish) -> Publish:
    """Publish a message."""
    async with turn:
        await broadcast.publish(channel=publish.channel, message=publish.message)
    return publish


@app.websocket("/{channel}")
async def events_ws(websocket: WebSocket, channel: str) -> None:
    """Serve a subscriber until either direction ends."""
    await websocket.accept()
    tasks = [asyncio.create_task(_receive(websocket)), asyncio.create_task(_send(websocket, channel))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(websocket: WebSocket) -> None:
    try:
        async for _ in websocket.iter_text():
            pass
    except WebSocketDisconnect:
        pass


async def _send(websocket: WebSocket, channel: str) -> None:
    async with broadcast.subscribe(channel=channel) as subscriber:
        async for event in subscriber:  # type: ignore[union-attr]  # annotated so
            await websocket.send_text(event.message)  # type: ignore[union-attr]  # the same
