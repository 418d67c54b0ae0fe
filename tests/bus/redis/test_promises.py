"""What a 200 means: the servers' settings that are read, replicas that are waited for, and how long things are kept."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import structlog

from app.bus.redis.streams import StreamsBackend
from app.core.channel import HistoryWindow
from app.core.errors import OutcomeUnknownError, UnavailableError
from app.core.message import Published, Record
from tests.bus.redis.conftest import streams
from tests.support.readers import ALL, healthy, says, until, worker_of
from tests.support.valkey import ValkeyServer

CONFIGURATION = Path(__file__).parents[3] / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def primary() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Take what is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def _of(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


async def test_the_log_says_what_a_crash_loses(server: ValkeyServer, logged: list[Any]) -> None:
    """Worker logs appendfsync of a server once, and again when it has changed."""
    async with streams(server.url()) as one:
        (line,) = _of(logged, "redis_durability")
        assert (line["appendonly"], line["appendfsync"]) == ("yes", "always")
        assert "on the server's disk" in line["detail"]
        server.run("CONFIG", "SET", "appendfsync", "everysec")
        server.kill_connections()
        await until(lambda: len(_of(logged, "redis_durability")) == 2, "it is read again")
        assert "the last second" in _of(logged, "redis_durability")[1]["detail"]
        await healthy(one.backend)
    server.run("CONFIG", "SET", "appendfsync", "always")
    assert _of(logged, "redis_eviction") == []


async def test_settings_that_may_not_be_read_are_said_to_be_unknown(primary: ValkeyServer, logged: list[Any]) -> None:
    """Worker whose user may do what the documentation names, but for CONFIG, says so, works, and logs no password."""
    rules = re.search(r"ACL SETUSER abide on >password (.*)", CONFIGURATION.read_text())
    assert rules is not None
    primary.run("ACL", "SETUSER", "abide", "reset", "on", ">hunter2", *rules[1].split(), "-config")
    url = f"redis-stream://abide:hunter2@{primary.place}"
    async with streams(url) as one:
        (reader,) = await one.follow("a")
        assert [type(outcome) for outcome in await one.publish("a", "1")] == [Published]
        assert await reader.until(1) == [b"1"]
        assert (await one.backend.read("a", 0, 1, ALL)).head == 1
        assert isinstance(one.backend, StreamsBackend)
        await one.backend.trim(grace=0)
    (line,) = _of(logged, "redis_durability")
    assert (line["appendfsync"], line["appendonly"]) == ("unknown", "no")
    assert "hunter2" not in str(logged)


async def test_a_wrong_password_is_said_in_one_line(primary: ValkeyServer, logged: list[Any]) -> None:
    """Worker with a wrong password says what to correct, without the password."""
    primary.run("ACL", "SETUSER", "abide", "on", ">hunter2", "~abide:*", "&abide:*", "+@all", "-config")
    async with streams(f"redis-stream://abide:hunter3@{primary.place}", ready=False) as one:
        reason = await says(one.backend, "correct the user and the password")
        assert reason.startswith(f"no connection to {primary.place}: ")
    assert "hunter3" not in str(logged) + reason


async def test_eviction_is_named_as_a_danger(primary: ValkeyServer, logged: list[Any]) -> None:
    """Worker warns where Redis may delete keys when it reaches maxmemory."""
    primary.run("CONFIG", "SET", "maxmemory", "100mb")
    primary.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with streams(primary.url()):
        (line,) = _of(logged, "redis_eviction")
        assert (line["maxmemory"], line["maxmemory_policy"]) == ("104857600", "allkeys-lru")
        assert line["log_level"] == "warning"
    primary.run("CONFIG", "SET", "maxmemory", "0")


async def test_replicas_are_waited_for(primary: ValkeyServer) -> None:
    """Worker with min_replicas stores nothing without a replica, and knows no outcome when one does not answer."""
    async with streams(primary.url(), min_replicas=1, ready=False) as one:
        assert "fewer replicas" in await says(one.backend, "NOREPLICAS")
        (refused,) = await one.backend.append([Record("r", b"1")], time.monotonic() + 0.5)
        assert isinstance(refused, UnavailableError)
        assert not isinstance(refused, OutcomeUnknownError)
        with ValkeyServer({"replicaof": f"127.0.0.1 {primary.port}"}) as replica:
            replica.wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
            await healthy(one.backend)
            assert [outcome.position.offset for outcome in await one.publish("r", "2")] == [1]  # type: ignore[union-attr]
            assert await anyio.to_thread.run_sync(replica.run, "HGET", "abide:{r}:head", "head") == "1"
            replica.pause()
            (unknown,) = await one.publish("r", "3")
            assert isinstance(unknown, OutcomeUnknownError)
            assert "0 of 1 replicas" in str(unknown)
            replica.resume()


async def test_what_no_history_shows_is_deleted_by_itself(server: ValkeyServer) -> None:
    """Worker trims what is older than a history and larger than it, and Redis forgets what is idle."""
    retention = {"a": HistoryWindow(size=100, ttl=3600)}
    backend = StreamsBackend(server.url(), retention=lambda channel: retention.get(channel, ALL))
    async with worker_of(backend) as one:
        for _ in range(5):
            await one.publish("a", *map(str, range(200)))
            await one.publish("b", *map(str, range(200)))
        assert 3500 < server.run("TTL", "abide:{a}:log") <= 3600
        assert 7 * 86400 < server.run("TTL", "abide:{a}:head") <= 7 * 86400 + 3600
        await backend.trim(grace=0)
        assert 100 <= server.run("XLEN", "abide:{a}:log") < 300
        assert server.run("XLEN", "abide:{b}:log") == 1000
        page = await one.backend.read("a", 0, 1000, retention["a"])
        assert (page.first, page.head, len(page.messages)) == (901, 1000, 100)
