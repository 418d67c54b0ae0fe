"""``GET /channels``: what is declared, and how much of it is in use here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cached_property

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.core.channel import Channel, Registry
from app.core.hub import Hub

_UNCACHED = {"cache-control": "no-store"}


class Window(BaseModel):
    """What a channel keeps."""

    size: int = Field(description="Messages, at most; 0 keeps nothing")
    ttl: int = Field(description="Seconds that a message is kept")


class Declared(BaseModel):
    """One channel or family of channels: its policy and its counters."""

    name: str = Field(examples=["lebowski", "chat.{room}"])
    publish: str = Field(description="Who may publish", examples=["anyone", "key"])
    subscribe: str = Field(description="Who may subscribe", examples=["anyone"])
    client_publish: bool = Field(description="Whether a connected subscriber may publish by sending")
    history: Window
    max_message_size: int = Field(description="Bytes of JSON")
    subscribers: int = Field(description="Subscriptions in this worker; a family's are those of all its channels")
    head: int | None = Field(
        description="Offset of the newest message; null for a family, and where nobody subscribes in this worker"
    )


class ChannelList(BaseModel):
    """The body of ``GET /channels``, in the order of the file."""

    channels: list[Declared]


class Channels:
    """The route."""

    def __init__(self, registry: Registry, hub: Hub) -> None:
        self._registry = registry
        self._hub = hub

    async def list(self) -> Response:
        """Answer with every declared channel."""
        content = await asyncio.to_thread(self._dump, *self._count())
        return Response(content, media_type="application/json", headers=_UNCACHED)

    async def head(self) -> Response:
        """Answer whether the caller may have the list."""
        return JSONResponse(None, headers=_UNCACHED)

    def _dump(self, subscribers: Mapping[str, int], heads: Mapping[str, int]) -> bytes:
        described = (
            f'{policy},"subscribers":{subscribers.get(name, 0)},"head":{heads.get(name, "null")}}}'
            for name, policy in self._policies.items()
        )
        return f'{{"channels":[{",".join(described)}]}}'.encode()

    @cached_property
    def _policies(self) -> dict[str, str]:
        """By name, what a channel's object begins with: it stays the same until a reload."""
        return {channel.name: _policy(channel).removesuffix("}") for channel in self._registry.channels}

    def _count(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return subscriptions and heads by declared name; a name that is not declared any more is left out."""
        subscribers: dict[str, int] = {}
        heads = {}
        for name, (count, head) in self._hub.counters().items():
            channel = self._registry.get(name)
            if channel is not None:
                subscribers[channel.name] = subscribers.get(channel.name, 0) + count
                if not channel.is_family:
                    heads[name] = head
        return subscribers, heads


def _policy(channel: Channel) -> str:
    policy = {
        "name": channel.name,
        "publish": channel.publish,
        "subscribe": channel.subscribe,
        "client_publish": channel.client_publish,
        "history": {"size": channel.history.size, "ttl": channel.history.ttl},
        "max_message_size": channel.max_message_size,
    }
    return json.dumps(policy, separators=(",", ":"))
