"""What somebody has written into the log by hand: every reader is told what can be told of it, and goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import httpx

from tests.support.server import Server

CHANNELS = "backend: ${DATABASE_URL}\nchannels: {a: {publish: anyone}}\n"

DEEP = "[" * 1200 + "]" * 1200

ROWS = (
    (2, 1, "not JSON"),
    (3, 1, ""),
    (4, 1, DEEP),
    (5, 1, "1\x1e2"),
    (8, 3, "1\x1e2"),  # two texts for three offsets
    (9, 1, "9" * 3_000_000),
    (10, 1, f'"{"x" * 1_500_000}"'),
    (15, 5, "11\x1e12\x1e13\x1e14\x1e15"),
    (16, 3, '"old"\x1e"old"\x1eNaN'),  # 14 and 15 once more
    (17, 1, ' [\n"kept"\r\n] '),
)
"""Last offset, number of messages, body."""

WANTED: dict[int, object] = (
    {1: 1, 2: "not JSON", 3: "", 4: DEEP, 5: "1\x1e2", 8: "1\x1e2"}
    | {offset: offset for offset in range(11, 16)}
    | {16: "NaN", 17: ["kept"], 18: 18}
)
"""What readers get, by offset; before 8 and 11 there is a gap."""


Told = list[tuple[object, object]]
"""Offset and data of each message; of a gap, where it ends."""


async def over_websocket(http: aiohttp.ClientSession, opened: asyncio.Event) -> Told:
    """Return what a subscriber of abide.v1 is told up to 18."""
    told: Told = []
    async with http.ws_connect("/a?since=earliest", protocols=("abide.v1",)) as socket:
        opened.set()
        async for frame in socket:
            said = json.loads(frame.data)
            if said["type"] in {"message", "gap"}:
                position = said.get("position") or said["next"]
                told.append((int(position.rpartition(":")[2]), said.get("data", "gap")))
            if told and told[-1] == (18, 18):
                break
    return told


async def over_plain(http: aiohttp.ClientSession, opened: asyncio.Event) -> Told:
    """Return what a plain subscriber is told, which for a gap is a close: where it stands it is never told."""
    async with http.ws_connect("/a") as socket:
        opened.set()
        told: Told = [("", json.loads(frame.data)) async for frame in socket]
        return [*told, ("closed", socket.close_code)]


async def over_events(http: aiohttp.ClientSession, opened: asyncio.Event) -> Told:
    """Return what an event stream is told up to 18."""
    told: Told = []
    async with http.get("/a?since=earliest", headers={"accept": "text/event-stream"}) as stream:
        opened.set()
        async for event in _events(stream):
            if event.get("event") == "gap":
                told.append((int(json.loads(event["data"])["next"].rpartition(":")[2]), "gap"))
            elif "event" not in event and "id" in event and "data" in event:
                told.append((int(event["id"].rpartition(":")[2]), json.loads(event["data"])))
            if told and told[-1] == (18, 18):
                break
    return told


async def _events(stream: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    event: dict[str, str] = {}
    async for line in stream.content:
        if line == b"\n":
            yield event
            event = {}
        else:
            name, _, value = line.decode().rstrip("\n").partition(":")
            event[name] = value.removeprefix(" ")


async def put(url: str) -> None:
    """Write the rows into the log, as somebody does who does not know it."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.executemany(
            "INSERT INTO abide.log (channel, last, n, time, body) VALUES ('a', $1, $2, abide.now_ms(), $3)", ROWS
        )
        await connection.execute("UPDATE abide.head SET head = 17 WHERE channel = 'a'")
    await connection.close()


async def play(server: Server, database: str) -> None:
    """Let subscribers be there while the rows come, and others come afterwards."""
    expected: Told = list(WANTED.items())
    for at in (8, 11):
        expected.insert([offset for offset, _ in expected].index(at), (at, "gap"))
    async with aiohttp.ClientSession(server.url) as http, httpx.AsyncClient(base_url=server.url) as push:
        forms = [(form, asyncio.Event()) for form in (over_websocket, over_events, over_plain)]
        live = [asyncio.create_task(form(http, opened)) for form, opened in forms]
        for _, opened in forms:
            await opened.wait()
        (await push.post("/push/a", json=1)).raise_for_status()
        await put(database)
        (await push.post("/push/a", json=18)).raise_for_status()
        async with asyncio.timeout(20):
            v1, events, plain = await asyncio.gather(*live)
            late = [await form(http, asyncio.Event()) for form in (over_websocket, over_events)]
        assert [v1, events, *late] == [expected] * 4
        assert [data for _, data in plain] == [*list(WANTED.values())[:5], 4410]
        history = (await push.get("/a/history")).json()
        assert {message["offset"]: message["data"] for message in history["messages"]} == WANTED
        assert history["complete"] is False
        assert (await push.get("/health/ready")).status_code == 200


def test_rows_that_somebody_wrote_by_hand_end_no_reader(database_url: str) -> None:
    """Subscriber of every form, at the head or behind it, gets what a bad row holds, or a gap, and all behind it."""
    env = {"DATABASE_URL": database_url, "LOG_LEVEL": "warning"}
    with Server(channels=CHANNELS, env=env, ready_path="/health/ready") as server:
        asyncio.run(play(server, database_url))
        told = {line["offset"] for line in server.log if line.get("event") == "bad_row"}
    assert told == {2, 3, 4, 5, 6, 8, 9, 16}
