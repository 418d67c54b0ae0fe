"""The locks and resources that our slow sessions wait for. We ask while they wait: a timeout does not say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg

from app.bus.outcomes import Outcomes


async def look(fetch: Callable[[str], Awaitable[list[asyncpg.Record]]], outcomes: Outcomes) -> None:
    """Add to everything that is slow what holds it up. ``fetch`` runs a statement by name; its errors go on."""
    if slow := outcomes.slow():
        for row in await fetch("held_up"):
            for way in slow:
                outcomes.hint(way, _held_up(row))


def _held_up(row: asyncpg.Record) -> str:
    if row["event"] == "SyncRep":
        return "it waits for a standby (SyncRep): synchronous_standby_names asks for one that does not answer"
    if row["blocker"] is None:
        return f"it waits for {row['kind']} {row['event']}"
    what = f" on {row['relation']}" if row["relation"] else ""
    return (
        f"it waits for a lock{what} of session {row['blocker']} ({row['blocker_name']}): "
        f"SELECT pg_terminate_backend({row['blocker']}) ends that"
    )
