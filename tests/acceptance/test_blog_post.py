"""The blog post that Abide began as works against it unchanged."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator

import httpx
import pytest
import websockets

from tests.support.server import Server

CHANNELS = "channels: {lebowski: {publish: anyone}, events: {publish: anyone, client_publish: true}}"


@pytest.fixture
async def received(server_factory: type[Server]) -> AsyncIterator[tuple[Server, asyncio.Queue[object]]]:
    """Run the post's subscriber: it prints what it gets, and reconnects after three seconds."""
    server = server_factory(channels=CHANNELS)
    messages: asyncio.Queue[object] = asyncio.Queue()

    async def subscriber() -> None:
        while True:
            try:
                async with websockets.connect(f"{server.ws_url}/lebowski") as websocket:
                    messages.put_nowait("connected")
                    async for message in websocket:
                        messages.put_nowait(json.loads(message))
            except (OSError, websockets.ConnectionClosed):
                await asyncio.sleep(3)

    task = asyncio.create_task(subscriber())
    yield server, messages
    task.cancel()
    await asyncio.wait([task])


async def test_the_posts_subscriber_gets_what_its_push_sends(received: tuple[Server, asyncio.Queue[object]]) -> None:
    """Subscriber of the blog post gets the message of its POST /push, and again when it has reconnected."""
    server, messages = received
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=server.url) as http:
        assert await messages.get() == "connected"
        answer = await http.post("/push", json={"channel": "lebowski", "message": "The Dude abides"})
        assert answer.json()["channel"] == "lebowski"
        assert answer.json()["message"] == "The Dude abides"
        assert await messages.get() == "The Dude abides"
        os.kill(server.wait_log(lambda line: line["event"] == "serving")["pid"], signal.SIGKILL)
        assert await messages.get() == "connected"
        await http.post("/push", json={"channel": "lebowski", "message": ["still"]})
        assert await messages.get() == ["still"]


async def test_what_the_post_does_otherwise_is_said(received: tuple[Server, asyncio.Queue[object]]) -> None:
    """Server takes bare `curl -d`, and says what to send where the post leaves a channel or quotes out."""
    server, messages = received
    curl = ["curl", "-sS", f"{server.url}/push", "-d"]
    async with asyncio.timeout(30):
        assert await messages.get() == "connected"
        for body in ('{"channel": "lebowski", "message": "The Dude abides"}', '{"message": "The Dude abides"}'):
            done = await asyncio.to_thread(subprocess.run, [*curl, body], capture_output=True, check=True)
            answer = json.loads(done.stdout)
            assert answer.get("message", answer.get("detail")).startswith(("The Dude abides", "'channel' is missing"))
        assert await messages.get() == "The Dude abides"
        async with websockets.connect(f"{server.ws_url}/events") as events:
            await events.send('"over the line"')
            assert await events.recv() == '"over the line"'
            await events.send("over the line")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await events.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400
        assert "text needs quotes" in closed.value.rcvd.reason
        async with websockets.connect(f"{server.ws_url}/echo") as echo:
            await echo.send("mark it zero")
            assert await echo.recv() == "mark it zero"
