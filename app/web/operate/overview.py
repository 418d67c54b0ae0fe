"""``GET /console/overview``: what all workers of the server do, for the console."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, Field

from app.core.channel import Registry
from app.core.errors import MalformedError
from app.web.edge.request import query_of
from app.web.operate.health import Health, Readiness

PATH = "/console/overview"

SINCE = {
    "name": "since",
    "in": "query",
    "description": "The second after which `seconds` begins; all that are kept if it is left out",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**11 - 1, "default": 0},
}

_SINCE = re.compile(r"[0-9]{1,11}", re.ASCII)
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Observed:
    """What all workers have now, and what happened in the last seconds. Names may be of channels not declared."""

    workers: int = 1
    connections: Mapping[str, int] = field(default_factory=dict)
    channels: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    """By declared name: the number of subscriptions, and the newest offset if known."""
    slow: int = 0
    lag: int = 0
    busy_names: Mapping[str, int] = field(default_factory=dict)
    """The busiest channels by full name, with their messages in the last ``busy_seconds``."""
    busy_declared: Mapping[str, int] = field(default_factory=dict)
    busy_seconds: int = 1
    bounds: Sequence[float] = ()
    until: int = 0
    seconds: Sequence[Sequence[Any]] = ()
    warnings: Sequence[str] = ()


Observe = Callable[[int], Awaitable[Observed]]
"""Looks at all workers; takes the second after which ``seconds`` begins."""


async def observe_nothing(_: int) -> Observed:
    """See nothing: for routes without the rest of the application."""
    return Observed()


class Busy(BaseModel):
    """A channel with messages in the last seconds."""

    channel: str = Field(description="Its full name, also of one of a family", examples=["chat.7"])
    declared: str = Field(description="Its name in channels.yaml", examples=["chat.{room}"])
    rate: float = Field(description="Messages stored per second, in the last ten")


class Look(BaseModel):
    """The body of ``GET /console/overview``; all numbers are those of all workers of this server together."""

    version: str
    workers: int = Field(description="Processes that serve now")
    health: Readiness = Field(description="What `/health/ready` says, of the worker that answers")
    warnings: list[str] = Field(description="What is valid in channels.yaml but may be a mistake")
    connections: dict[str, int] = Field(description="Open connections of subscribers, by kind")
    subscribers: int = Field(description="Open subscriptions")
    slow: int = Field(description="Subscriptions that read more slowly than others publish")
    lag: int = Field(description="Messages by which the slowest of these is behind")
    busiest: list[Busy] = Field(description="The busiest channels first")
    rates: dict[str, float] = Field(
        description="Messages stored per second in the last ten, by declared name, without those that have none"
    )
    bounds: list[float] = Field(description="The greatest ages that `seconds` counts together, in seconds")
    until: int = Field(description="The last second in `seconds`: the next look asks for those since then")
    seconds: list[tuple[int, int, int, int, int, list[int]]] = Field(
        description="What happened in each second since: its time in seconds since the Unix epoch, messages stored,"
        " messages handed to connections, gaps told, pushes refused, and live deliveries by their age since the message"
        " was stored: up to each of `bounds`, and beyond. Seconds in which nothing happened are left out."
    )


class Overview:
    """The route of the overview."""

    def __init__(self, registry: Registry, health: Health, version: str, observe: Observe) -> None:
        self._registry = registry
        self._health = health
        self._version = version
        self._observe = observe

    async def answer(self, request: Request) -> Response:
        """Answer with what all workers do now and did since the second ``since``."""
        since = query_of(request.scope["query_string"]).get("since", "0")
        if not _SINCE.fullmatch(since):
            msg = f"'since' is {since[:80]!r}: send the 'until' of an earlier answer"
            raise MalformedError(msg)
        observed = await self._observe(int(since))
        readiness = await self._health.judge(request.scope, in_full=True)
        content = await asyncio.to_thread(self._dump, observed, readiness)
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    def _dump(self, observed: Observed, readiness: Readiness) -> str:
        look = {
            "version": self._version,
            "workers": observed.workers,
            "health": readiness.model_dump(exclude_unset=True),
            "warnings": observed.warnings,
            "connections": observed.connections,
            "subscribers": sum(subscribers for subscribers, _ in observed.channels.values()),
            "slow": observed.slow,
            "lag": observed.lag,
            "busiest": self._busiest(observed),
            "rates": {name: messages / observed.busy_seconds for name, messages in observed.busy_declared.items()},
            "bounds": observed.bounds,
            "until": observed.until,
            "seconds": observed.seconds,
        }
        return json.dumps(look, separators=(",", ":"))

    def _busiest(self, observed: Observed) -> list[dict[str, Any]]:
        busiest = sorted(observed.busy_names.items(), key=lambda named: (-named[1], named[0]))[:_MOST_SHOWN]
        found = ((self._registry.get(name), name, messages) for name, messages in busiest)
        return [
            {"channel": name, "declared": channel.name, "rate": messages / observed.busy_seconds}
            for channel, name, messages in found
            if channel is not None
        ]
