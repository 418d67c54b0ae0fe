"""Stores one record of the server's own."""

from __future__ import annotations

from app.core.errors import AbideError
from app.core.message import Published, Record
from app.core.ports import Publisher


async def store(publisher: Publisher, record: Record) -> Published:
    """Return where a record is stored, for all workers and machines. Raises what the backend raises."""
    (outcome,) = await publisher.publish([record])
    if isinstance(outcome, AbideError):
        raise outcome
    return outcome
