"""``GET /channels``: the declared channels, and how much each is used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.core.channel import Channel, Registry
from app.core.delivery.hub import Hub

Counts = Mapping[str, tuple[int, int | None]]
"""By declared name: the number of subscriptions, and the newest offset if known."""

CountAll = Callable[[], Awaitable[Counts]]
"""Returns the counts of all workers together."""

_UNCACHED = {"cache-control": "no-store"}


class Window(BaseModel):
    """The history of a channel."""

    size: int = Field(description="The most messages kept; 0 keeps none")
    ttl: int = Field(description="Seconds for which a message is kept")


class Declared(BaseModel):
    """One channel or family of channels: its policy and its counters."""

    name: str = Field(examples=["lebowski", "chat.{room}"])
    publish: str = Field(description="Who may publish", examples=["anyone", "key"])
    subscribe: str = Field(description="Who may subscribe", examples=["anyone"])
    client_publish: bool = Field(description="Whether a subscriber may publish over its WebSocket")
    history: Window
    max_message_size: int = Field(description="The most bytes of a message's JSON")
    rate_limit: str | None = Field(
        description="How often messages may be published, in each worker; null for no limit", examples=["10/s"]
    )
    schema_: str | None = Field(
        alias="schema", description="The file of the JSON Schema that messages fit; null for none"
    )
    subscribers: int = Field(
        description="Subscriptions in all workers of this server; for a family, to all of its channels together"
    )
    head: int | None = Field(description="Offset of the newest message; null for a family or without subscribers")


class ChannelList(BaseModel):
    """The body of ``GET /channels``, in the order of the file."""

    channels: list[Declared]


class Channels:
    """The route that lists the channels."""

    def __init__(self, registry: Registry, hub: Hub, count_all: CountAll | None) -> None:
        self._registry = registry
        self._hub = hub
        self._count_all = count_all

    async def list(self) -> Response:
        """Answer with every declared channel."""
        counts = await self._count_all() if self._count_all else self._hub.counts()
        content = await asyncio.to_thread(self._dump, counts)
        return Response(content, media_type="application/json", headers=_UNCACHED)

    async def head(self) -> Response:
        """Answer whether the caller may read the list."""
        return JSONResponse(None, headers=_UNCACHED)

    def _dump(self, counts: Counts) -> bytes:
        described = (policy + _counted(*counts.get(name, (0, None))) for name, policy in self._policies.items())
        return f'{{"channels":[{",".join(described)}]}}'.encode()

    @cached_property
    def _policies(self) -> dict[str, str]:
        """By name, the first part of a channel's object, which stays the same until a reload."""
        return {channel.name: _policy(channel).removesuffix("}") for channel in self._registry.channels}


def _counted(subscribers: int, head: int | None) -> str:
    return f',"subscribers":{subscribers},"head":{"null" if head is None else head}}}'


def _policy(channel: Channel) -> str:
    policy = {
        "name": channel.name,
        "publish": str(channel.publish),
        "subscribe": str(channel.subscribe),
        "client_publish": channel.client_publish,
        "history": {"size": channel.history.size, "ttl": channel.history.ttl},
        "max_message_size": channel.max_message_size,
        "rate_limit": None if channel.rate_limit is None else str(channel.rate_limit),
        "schema": channel.schema.path if channel.schema else None,
    }
    return json.dumps(policy, separators=(",", ":"))
