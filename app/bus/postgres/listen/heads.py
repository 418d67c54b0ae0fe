"""Compares the heads of the log with what the follower has: finds what was missed, and a log that went back."""

from __future__ import annotations

import time

import asyncpg

from app.bus.follower import Follower
from app.bus.place import Place
from app.bus.postgres.listen.listen_session import ListenSession
from app.bus.postgres.listen.outbox_mover import OutboxMover
from app.bus.postgres.migrations import EMPTY
from app.core.epochs import name
from app.core.errors import UnavailableError


async def compare(session: ListenSession, follower: Follower, mover: OutboxMover) -> None:
    """Read the heads of what is followed, and tell the follower of them; wake the mover if the outbox holds anything.

    Opens an epoch where the present one is not certified any more. Raises what ``session.fetch`` raises, and
    :class:`UnavailableError` where the schema is empty.
    """
    before = follower.places()
    rows = await session.fetch("heads", list(before))
    if not rows:
        raise UnavailableError(EMPTY)
    epoch: str = rows[0]["epoch"]
    if rows[0]["waiting"]:
        mover.ring()
    heads = {row["channel"]: row["head"] for row in rows if row["channel"] is not None}
    lower = {channel for channel, place in before.items() if heads.get(channel, place.head) < place.head}
    is_over = any(name(before[channel].lineage) == epoch for channel in lower)
    if is_over or not rows[0]["certified"]:
        epoch = await _enter(session, epoch if is_over else None) or epoch
    doubtful = {
        channel: place.head
        for channel, place in before.items()
        if channel in lower or name(place.lineage) != epoch
    }  # fmt: skip
    if doubtful:
        await _judge(session, follower, doubtful)
    follower.epoch, follower.seen = epoch, time.monotonic()
    for channel, head in heads.items():
        follower.look(channel, head)
    follower.release()


async def _enter(session: ListenSession, over: str | None) -> str | None:
    """Open an epoch; return its name, or None where nothing can be written: then no message can come either."""
    try:
        opened: str = (await session.fetch("enter", over))[0][0]
    except asyncpg.ReadOnlySQLTransactionError:
        return None
    return opened


async def _judge(session: ListenSession, follower: Follower, asked: dict[str, int]) -> None:
    for row in await session.fetch("place", list(asked)):
        follower.judge(row["channel"], asked[row["channel"]], Place(row["lineage"], row["head"]))
