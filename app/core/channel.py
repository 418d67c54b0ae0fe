"""Channels and their policies: who may do what, and what fits.

All of it is immutable. A reload builds a new :class:`Registry` and swaps it in one assignment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from app.core.errors import (
    ForbiddenError,
    TooLargeError,
    UnauthorisedError,
    UnknownChannelError,
)

MAX_NAME = 255
"""Bytes of the longest name."""

NAME = re.compile(rf"[A-Za-z0-9_.:-]{{1,{MAX_NAME}}}", re.ASCII)
"""What a channel may be called."""

PARAMETER = r"[A-Za-z0-9_-]{1,128}"
"""What a family's parameter may stand for."""

_PARAMETER = re.compile(PARAMETER, re.ASCII)

RESERVED = frozenset(
    (
        "push", "ws", "echo", "health", "metrics", "channels", "docs", "redoc", "openapi.json", "asyncapi.json",
        "console", "client.js", "static", "favicon.ico", "robots.txt",
    )
)  # fmt: skip
"""Names that are paths of the server itself."""

_KNOWN_NAMES = 10_000
"""Names whose family is remembered: looking for it takes longer than all else that is asked of a registry."""

MAX_MESSAGE_SIZE = 1024 * 1024
"""The most that a channel's ``max_message_size`` may be, in bytes."""


class Access(StrEnum):
    """Who may publish or subscribe, and who is an operator."""

    ANYONE = "anyone"
    KEY = "key"
    OPERATORS = "operators"
    TOKEN = "token"  # noqa: S105 — a policy's name, not a secret
    NOBODY = "nobody"


class SlowSubscriber(StrEnum):
    """What happens to a subscription whose buffer is full."""

    CATCH_UP = "catch_up"
    DISCONNECT = "disconnect"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class History:
    """The window of messages kept for resume: at most ``size``, none older than ``ttl`` seconds."""

    size: int = 1000
    ttl: int = 24 * 3600


class Caller(NamedTuple):
    """What a caller showed when it came: enough for other settings to judge it anew."""

    digest: bytes | None = None
    """Of the key that it sent; None where it sent none."""
    is_near: bool = False
    """It came from this machine, and by way of nobody."""
    origin: str | None = None
    """Of its page; None where it is no page."""
    is_own: bool = False
    """The page is the server's own."""
    is_elsewhere: bool = False
    """Own, but its host is not this machine, and no proxy passed it on: the name may have been made to lead here."""


NOBODY = Caller()


class Identity(NamedTuple):
    """The authenticated caller."""

    has_key: bool = False
    """It brought one of the configured keys."""
    reason: str = "no key was sent"
    """Why ``has_key`` is false, for the detail of a refusal."""
    name: str = ""
    """Tells it from others, and is no secret; empty for all who show nothing. Idempotency keys belong to it."""
    is_operator: bool = False
    """It may see what operators see, and publish where only they may."""
    keys_exist: bool = True
    """Whether there are keys to bring; without them nobody can become an operator by a key."""
    caller: Caller = NOBODY
    """By what it was judged."""

    def may(self, access: Access) -> bool:
        """Whether it is one of those whom a policy admits."""
        match access:
            case Access.ANYONE:
                return True
            case Access.KEY:
                return self.has_key
            case Access.OPERATORS:
                return self.is_operator
            case _:
                return False

    def check_operator(self, rule: str) -> None:
        """Raise unless it is an operator's; ``rule`` says what only they may, and begins the detail.

        Raises :class:`UnauthorisedError`, or :class:`ForbiddenError` where no credential would help.
        """
        if self.is_operator:
            return
        if self.keys_exist:
            msg = f"{rule}, and {self.reason}: send 'Authorization: Bearer <key>'"
            raise UnauthorisedError(msg)
        msg = f"{rule}, and {self.reason} become one: set auth.keys in channels.yaml"
        raise ForbiddenError(msg)


ANONYMOUS = Identity()


@dataclass(frozen=True, slots=True)
class Channel:
    """One declared channel, or a family such as ``chat.{room}``; the rules for its messages."""

    name: str
    publish: Access = Access.KEY
    subscribe: Access = Access.ANYONE
    client_publish: bool = False
    history: History = field(default_factory=History)
    max_message_size: int = 64 * 1024
    slow_subscriber: SlowSubscriber = SlowSubscriber.CATCH_UP

    @property
    def is_family(self) -> bool:
        """Whether the name holds a parameter."""
        return "{" in self.name

    @property
    def prefix(self) -> str:
        """The literal text before a family's parameter; the whole name of a plain channel."""
        return self.name.partition("{")[0]

    def check_publish(self, identity: Identity) -> None:
        """Raise :class:`UnauthorisedError` or :class:`ForbiddenError` if it may not publish."""
        if identity.may(self.publish):
            return
        match self.publish:
            case Access.KEY:
                msg = (
                    f"channel {self.name!r} takes messages only with a key, and {identity.reason}: "
                    "send 'Authorization: Bearer <key>'"
                )
                raise UnauthorisedError(msg)
            case Access.OPERATORS:
                identity.check_operator(f"only operators may publish to channel {self.name!r}")
            case _:
                msg = f"channel {self.name!r} takes no messages here (publish: {self.publish})"
                raise ForbiddenError(msg)

    def check_client_publish(self, identity: Identity) -> None:
        """As :meth:`check_publish`, for a subscriber that publishes by sending."""
        if not self.client_publish:
            msg = f"channel {self.name!r} takes no messages from its subscribers (client_publish: false)"
            raise ForbiddenError(msg)
        self.check_publish(identity)

    def most_from(self, identity: Identity) -> int:
        """Return the bytes of the largest message that it may publish by sending; 0 where it may not."""
        return self.max_message_size if self.client_publish and identity.may(self.publish) else 0

    def check_subscribe(self, identity: Identity) -> None:  # noqa: ARG002 — tokens will look at it
        """Raise :class:`ForbiddenError` if it may not subscribe."""
        if self.subscribe is not Access.ANYONE:
            msg = f"channel {self.name!r} cannot be subscribed to (subscribe: {self.subscribe})"
            raise ForbiddenError(msg)

    def check_size(self, data: bytes) -> None:
        """Raise :class:`TooLargeError` if the message does not fit."""
        if len(data) > self.max_message_size:
            msg = (
                f"the message has {len(data)} bytes as JSON; channel {self.name!r} takes at most "
                f"{self.max_message_size} (max_message_size)"
            )
            raise TooLargeError(msg)


class Registry:
    """The declared channels, found by the name of a request.

    A plain channel goes before a family; among families the one with the longest prefix.
    """

    def __init__(self, channels: tuple[Channel, ...], defaults: Channel) -> None:
        self.channels = channels
        self.defaults = defaults
        self._most_from: dict[Access, int] = {}
        for channel in channels:
            if channel.client_publish:
                most = self._most_from.get(channel.publish, 0)
                self._most_from[channel.publish] = max(most, channel.max_message_size)
        self._plain = {c.name: c for c in channels if not c.is_family}
        self._family = lru_cache(maxsize=_KNOWN_NAMES)(_Families(c for c in channels if c.is_family).find)

    def __reduce__(self) -> tuple[type[Registry], tuple[tuple[Channel, ...], Channel]]:
        """Let it be pickled."""
        return Registry, (self.channels, self.defaults)

    def get(self, name: str) -> Channel | None:
        """Return the channel that ``name`` stands for, or None."""
        channel = self._plain.get(name)
        if channel is None and len(name) <= MAX_NAME:
            return self._family(name)
        return channel

    def forget_names(self) -> None:
        """Forget which names belong to which family; each is found again when it is asked for."""
        self._family.cache_clear()

    def find(self, name: str) -> Channel:
        """Return the channel that ``name`` stands for; raise :class:`UnknownChannelError`."""
        channel = self.get(name)
        if channel is None:
            msg = f"there is no channel {name[:255]!r}: declare it in channels.yaml"
            raise UnknownChannelError(msg)
        return channel

    def most_from(self, identity: Identity) -> int:
        """Return the most that :meth:`Channel.most_from` is of any channel."""
        return max((most for access, most in self._most_from.items() if identity.may(access)), default=0)

    def history(self, name: str) -> History:
        """Return what is kept of a channel; of one that is not declared, what ``defaults`` say."""
        return (self.get(name) or self.defaults).history


class _Families:
    """The families by prefix: asking each in turn would take longer than a push does."""

    def __init__(self, families: Iterable[Channel]) -> None:
        self._by_prefix: dict[str, list[tuple[str, Channel]]] = {}
        for family in families:
            suffix = family.name.partition("}")[2]
            self._by_prefix.setdefault(family.prefix, []).append((suffix, family))
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix}, reverse=True)

    def find(self, name: str) -> Channel | None:
        """Return the family that a name belongs to."""
        for length in self._lengths:
            for suffix, family in self._by_prefix.get(name[:length], ()):
                if name.endswith(suffix) and _PARAMETER.fullmatch(name, length, len(name) - len(suffix)):
                    return family
        return None
