"""A database that is not the one it was: an older backup in its place, or a new installation."""

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus.postgres import backend as backend_module
from app.bus.postgres import listener, migrate
from app.core.errors import UnavailableError
from app.core.message import Published
from tests.support.readers import kill, says, until, worker

pytestmark = pytest.mark.usefixtures("unretrieved")


async def test_a_restored_backup_is_noticed_and_said(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose channel ends before what it handed out says so, and hands out what comes after the new head."""
    monkeypatch.setattr(listener, "_POLL_SECONDS", 0.05)
    with capture_logs() as logs:
        async with worker(url) as it:
            (reader,) = await it.follow("a")
            await it.publish("a", *"12345")
            await reader.until(5)
            await sql.execute("BEGIN; UPDATE abide.head SET head = 2; DELETE FROM abide.log; COMMIT")
            await until(lambda: "log_went_back" in [line["event"] for line in logs], "a line in the log")
            (outcome,) = await it.publish("a", "three")
            assert isinstance(outcome, Published)
            assert outcome.position.offset == 3
            assert (await reader.until(6))[5:] == [b"three"]
    said = [line for line in logs if line["event"] == "log_went_back"]
    assert said == [{"event": "log_went_back", "log_level": "error", "channel": "a", "handed_out": 5, "head": 2}]


async def test_a_channel_that_a_backup_does_not_know_begins_again(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose channel is not in the database any more follows it from its first message."""
    monkeypatch.setattr(listener, "_POLL_SECONDS", 0.05)
    with capture_logs() as logs:
        async with worker(url) as it:
            (reader,) = await it.follow("a")
            await it.publish("a", "1")
            await reader.until(1)
            await sql.execute("BEGIN; TRUNCATE abide.head, abide.log; COMMIT")
            await until(lambda: "log_went_back" in [line["event"] for line in logs], "a line in the log")
            await it.publish("a", "one")
            assert await reader.until(2) == [b"1", b"one"]


@pytest.mark.parametrize("reconnect", [True, False], ids=["after a reconnection", "under its feet"])
async def test_a_new_installation_is_refused(
    url: str,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    reconnect: bool,  # noqa: FBT001 — pytest gives it
) -> None:
    """Worker that meets another epoch than it began with turns red, says what to do, and takes no messages."""
    monkeypatch.setattr(backend_module, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(listener, "_POLL_SECONDS", 60 if reconnect else 0.05)
    async with worker(url) as it:
        await it.publish("a", "1")
        await sql.execute("DROP SCHEMA abide CASCADE")
        await migrate(url)
        if reconnect:
            await kill(sql, "abide listen")
        assert "restart the server" in await says(it.backend, "another epoch", seconds=5)
        (outcome,) = await it.publish("a", "2")
        assert isinstance(outcome, UnavailableError)
        assert "restart the server" in str(outcome.__cause__)
    assert await sql.fetchval("SELECT count(*) FROM abide.log") == 0


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "doorbell"])
async def test_forged_notifications_are_no_more_than_hints(url: str, sql: asyncpg.Connection, inline: bool) -> None:  # noqa: FBT001 — pytest gives it
    """Worker is not led astray by doorbells that anybody may ring; without inline, nor by messages."""
    async with worker(url, inline=inline) as it:
        (reader,) = await it.follow("a")
        await sql.execute("SELECT pg_notify('abide', E'd\\na 1000000')")
        if not inline:
            await sql.execute("SELECT pg_notify('abide', E'i a 1 1 1700000000000\\n\"forged\"')")
        await sql.execute("SELECT pg_notify('abide', 'b'), pg_notify('abide', 'h nobody 7'), pg_notify('abide', '?')")
        await it.publish("a", "1")
        assert await reader.until(1) == [b"1"]
        await it.publish("a", "2")
        assert await reader.until(2) == [b"1", b"2"]
        assert reader.faults == []
        assert (await it.backend.health()).ok
