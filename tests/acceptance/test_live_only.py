"""A server on pub/sub of Redis: what is lost is told to everybody, and nothing has a position."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.server import Server
from tests.support.valkey import ValkeyServer

CHANNELS = """\
backend: ${DATABASE_URL}
defaults: {publish: anyone}
channels:
  news: {}
  "room.{name}": {}
  dropping: {slow_subscriber: drop}
"""
NOWHERE = {"position": None, "offset": None, "epoch": None}
PATIENCE = 20


@pytest.fixture(scope="module")
def redis() -> Iterator[ValkeyServer]:
    with ValkeyServer() as redis:
        yield redis


@pytest.fixture(scope="module")
def server(redis: ValkeyServer) -> Iterator[Server]:
    env = {"DATABASE_URL": redis.url("redis"), "WEB_CONCURRENCY": "2"}
    with Server(channels=CHANNELS, env=env, ready_path="/health/ready") as server:
        yield server


def push(server: Server, channel: str, data: object) -> dict[str, Any]:
    """Push until that is answered 200, as a client does whose message was refused or is in doubt."""
    while True:
        answer = httpx.post(f"{server.url}/push/{channel}", json=data, timeout=PATIENCE)
        if answer.status_code != 503:
            pushed: dict[str, Any] = answer.raise_for_status().json()
            return pushed


@contextlib.contextmanager
def v1(server: Server, target: str) -> Iterator[ClientConnection]:
    with connect(f"{server.ws_url}/{target}", subprotocols=[Subprotocol("abide.v1")]) as socket:
        yield socket


def frame(socket: ClientConnection) -> dict[str, Any]:
    received: dict[str, Any] = json.loads(socket.recv(timeout=PATIENCE))
    return received


@contextlib.contextmanager
def events(server: Server, target: str, **headers: str) -> Iterator[Iterator[dict[str, str]]]:
    accept = {"accept": "text/event-stream", **headers}
    with httpx.stream("GET", f"{server.url}/{target}", headers=accept, timeout=PATIENCE) as response:
        yield fields(response)


def fields(response: httpx.Response) -> Iterator[dict[str, str]]:
    """Yield the fields of each event."""
    event: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}


def test_everything_says_that_it_has_no_position(server: Server) -> None:
    """Server on redis:// answers pushes, and sends frames and events, with null or nothing for a position."""
    with v1(server, "news") as socket, events(server, "news") as stream:
        assert frame(socket) == {"type": "subscribed", "channel": "news", "position": None, "resumed": False}
        assert [next(stream), next(stream)] == [{"retry": "2000"}, {"id": "live:0"}]
        assert push(server, "news", {"a": 1}) == {"channel": "news", **NOWHERE}
        message = frame(socket)
        assert message.pop("time") > 1_600_000_000_000
        assert message == {"type": "message", "channel": "news", "position": None, "data": {"a": 1}}
        assert next(stream) == {"data": '{"a":1}'}
        body = [{"channel": "news", "message": 2}]
        assert httpx.post(f"{server.url}/push", json=body).json() == [{"channel": "news", **NOWHERE}]
    page: dict[str, Any] = {"messages": [], "epoch": None, "first": None, "last": None}
    assert httpx.get(f"{server.url}/news/history").json() == {**page, "complete": True}
    assert httpx.get(f"{server.url}/news/history?since=live:0").json() == {**page, "complete": False}
    (news,) = (each for each in httpx.get(f"{server.url}/channels").json()["channels"] if each["name"] == "news")
    assert (news["history"]["size"], news["head"]) == (0, None)


def test_the_documents_allow_what_is_answered(server: Server) -> None:
    """Documents of a server on redis:// say that positions may be null."""
    openapi = httpx.get(f"{server.url}/openapi.json").json()
    for name, answer in (
        ("Stored", push(server, "news", 1)),
        ("History", httpx.get(f"{server.url}/news/history").json()),
    ):
        jsonschema_rs.validate({**openapi["components"]["schemas"][name], "components": openapi["components"]}, answer)
    asyncapi = httpx.get(f"{server.url}/asyncapi.json").json()
    gap = asyncapi["components"]["messages"]["gap"]["payload"]["properties"]
    assert gap["next"]["type"] == gap["after"]["type"] == ["string", "null"]


def test_no_position_can_be_resumed_from(server: Server) -> None:
    """Subscriber of any form that comes back with a position is told of a gap, or closed with 4410."""
    with v1(server, "news?since=8c1f0a52:7") as socket:
        assert frame(socket)["resumed"] is False
        gap = {"type": "gap", "channel": "news", "after": "8c1f0a52:7", "next": None, "reason": "epoch"}
        assert frame(socket) == gap
    with events(server, "news", **{"last-event-id": "live:0"}) as stream:
        assert next(stream) == {"retry": "2000"}
        told = next(stream)
        assert (told["event"], told["id"]) == ("gap", "live:0")
        assert json.loads(told["data"]) == {**gap, "after": "live:0"}
    with connect(f"{server.ws_url}/news?since=live:0") as plain:
        assert closed(plain) == 4410


def closed(socket: ClientConnection) -> int:
    """Return the code with which the server closes a socket, whatever it sends before."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(timeout=PATIENCE)
    assert socket.close_code is not None
    return socket.close_code


@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_a_lost_connection_is_told_to_every_subscriber(server: Server, redis: ValkeyServer, how: str) -> None:
    """Subscribers of every form on all workers are told of a loss at once, before anything new, and go on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(v1(server, "room.1")) for _ in range(6)]
        assert {frame(socket)["type"] for socket in sockets} == {"subscribed"}
        streams = [stack.enter_context(events(server, "room.1")) for _ in range(4)]
        for stream in streams:
            assert [next(stream), next(stream)] == [{"retry": "2000"}, {"id": "live:0"}]
        plain = [stack.enter_context(connect(f"{server.ws_url}/{name}")) for name in ("room.1", "dropping")]
        push(server, "room.1", "before")
        assert {frame(socket)["data"] for socket in sockets} == {"before"}
        assert {next(stream)["data"] for stream in streams} == {'"before"'}
        if how == "killed":
            redis.kill_connections()
        else:
            redis.restart(kill=True)
        gap = {"type": "gap", "channel": "room.1", "after": None, "next": None, "reason": "dropped"}
        assert [frame(socket) for socket in sockets] == [gap] * 6
        for stream in streams:
            told = next(stream)
            assert (told["event"], json.loads(told["data"])) == ("gap", gap)
        assert [closed(socket) for socket in plain] == [4410, 4410]
        push(server, "room.1", "after")
        assert {frame(socket)["data"] for socket in sockets} == {"after"}
        assert {next(stream)["data"] for stream in streams} == {'"after"'}


def test_a_history_is_refused_while_it_runs(server: Server) -> None:
    """Server on redis:// whose file comes to ask for history refuses it by its line, and goes on."""
    server.write_channels(CHANNELS.replace("news: {}", "news: {history: {size: 10}}"))
    line = server.wait_log(lambda line: line.get("event") == "config_refused")
    assert "channels.yaml:4:" in str(line["problems"])
    assert "redis:// keeps no history" in str(line["problems"])
    assert push(server, "news", 1)["position"] is None
    server.write_channels(CHANNELS)
