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
from app.core.limits.rates import RateLimit

MAX_NAME = 255
"""The most bytes that a name may have."""

NAME = re.compile(rf"[A-Za-z0-9_.:-]{{1,{MAX_NAME}}}", re.ASCII)
"""A valid name of a channel."""

PARAMETER = r"[A-Za-z0-9_-]{1,128}"
"""A valid value of a family's parameter."""

_PARAMETER = re.compile(PARAMETER, re.ASCII)

RESERVED = frozenset(
    (
        "push", "ws", "echo", "health", "metrics", "channels", "docs", "redoc", "openapi.json", "asyncapi.json",
        "console", "client.js", "static", "favicon.ico", "robots.txt",
    )
)  # fmt: skip
"""Names that are paths of the server itself."""

_KNOWN_NAMES = 10_000
"""How many names the registry caches the family of: a search takes longer than everything else it does."""

MAX_MESSAGE_SIZE = 1024 * 1024
"""The largest ``max_message_size`` of a channel, in bytes."""

_SEND_A_KEY = "send 'Authorization: Bearer <key>'"
_SET_KEYS = "set auth.keys in channels.yaml"


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
class HistoryWindow:
    """The messages that a channel shows: the newest ``size``, none older than ``ttl`` seconds."""

    size: int = 1000
    ttl: int = 24 * 3600


class Caller(NamedTuple):
    """What a caller's request showed: enough to judge the caller again under new settings."""

    digest: bytes | None = None
    """The digest of the key that it sent; None without a key."""
    is_near: bool = False
    """The request came from this machine, and through no proxy."""
    origin: str | None = None
    """The origin of the page; None where no page sent the request."""
    is_own: bool = False
    """The page is one of this server's."""
    is_elsewhere: bool = False
    """The page is this server's by its name, but the name is not this machine's and no proxy forwarded the request:
    an attacker may have pointed the name here (DNS rebinding)."""


NOBODY = Caller()


class Identity(NamedTuple):
    """The authenticated caller."""

    has_key: bool = False
    """The caller sent one of the configured keys."""
    reason: str = "no key was sent"
    """Why ``has_key`` is false, for the detail of a refusal."""
    name: str = ""
    """Differs for each key, and is not secret; empty without a key. Idempotency keys are scoped by it."""
    is_operator: bool = False
    """The caller may see what operators see, and publish where only they may."""
    keys_exist: bool = True
    """Whether any keys are configured; without them nobody can become an operator by a key."""
    caller: Caller = NOBODY
    """What this identity was derived from."""

    def may(self, access: Access) -> bool:
        """Whether a policy admits this caller."""
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
        """Raise unless the caller is an operator; ``rule`` says what only operators may do, and begins the detail.

        Raises :class:`UnauthorisedError`, or :class:`ForbiddenError` where no key would help.
        """
        if self.is_operator:
            return
        if self.keys_exist:
            msg = f"{rule}, and {self.reason}: {_SEND_A_KEY}"
            raise UnauthorisedError(msg)
        msg = f"{rule}, and {self.reason}: {_SET_KEYS}"
        raise ForbiddenError(msg)


ANONYMOUS = Identity()


@dataclass(frozen=True, slots=True)
class Channel:
    """One declared channel, or a family such as ``chat.{room}``; the rules for its messages."""

    name: str
    publish: Access = Access.KEY
    subscribe: Access = Access.ANYONE
    client_publish: bool = False
    history: HistoryWindow = field(default_factory=HistoryWindow)
    max_message_size: int = 64 * 1024
    slow_subscriber: SlowSubscriber = SlowSubscriber.CATCH_UP
    rate_limit: RateLimit | None = None

    @property
    def is_family(self) -> bool:
        """Whether the name holds a parameter."""
        return "{" in self.name

    @property
    def prefix(self) -> str:
        """The literal text before a family's parameter; the whole name of a plain channel."""
        return self.name.partition("{")[0]

    def check_publish(self, identity: Identity) -> None:
        """Raise :class:`UnauthorisedError` or :class:`ForbiddenError` unless the caller may publish."""
        if identity.may(self.publish):
            return
        match self.publish:
            case Access.KEY:
                remedy = _SEND_A_KEY if identity.keys_exist else _SET_KEYS
                msg = f"channel {self.name!r} accepts messages only with a key, and {identity.reason}: {remedy}"
                raise UnauthorisedError(msg)
            case Access.OPERATORS:
                identity.check_operator(f"only operators may publish to channel {self.name!r}")
            case _:
                msg = f"channel {self.name!r} does not accept messages (publish: {self.publish})"
                raise ForbiddenError(msg)

    def check_client_publish(self, identity: Identity) -> None:
        """Raise as :meth:`check_publish` does; also unless subscribers may publish over their sockets."""
        if not self.client_publish:
            msg = f"channel {self.name!r} does not accept messages from its subscribers (client_publish: false)"
            raise ForbiddenError(msg)
        self.check_publish(identity)

    def max_publish_size(self, identity: Identity) -> int:
        """Return the size of the largest message that the caller may publish over its socket, in bytes; 0 for none."""
        return self.max_message_size if self.client_publish and identity.may(self.publish) else 0

    def check_subscribe(self, identity: Identity) -> None:  # noqa: ARG002 — tokens will look at it
        """Raise :class:`ForbiddenError` unless the caller may subscribe."""
        if self.subscribe is not Access.ANYONE:
            msg = f"channel {self.name!r} does not accept subscribers (subscribe: {self.subscribe})"
            raise ForbiddenError(msg)

    def check_size(self, data: bytes) -> None:
        """Raise :class:`TooLargeError` if the message is larger than ``max_message_size``."""
        if len(data) > self.max_message_size:
            msg = (
                f"the message has {len(data)} bytes as JSON; channel {self.name!r} accepts at most "
                f"{self.max_message_size} (max_message_size)"
            )
            raise TooLargeError(msg)


class Registry:
    """The declared channels, looked up by name.

    A plain channel takes precedence over a family; among families the longest prefix wins.
    """

    def __init__(self, channels: tuple[Channel, ...], defaults: Channel) -> None:
        self.channels = channels
        self.defaults = defaults
        self._max_publish_size: dict[Access, int] = {}
        for channel in channels:
            if channel.client_publish:
                most = self._max_publish_size.get(channel.publish, 0)
                self._max_publish_size[channel.publish] = max(most, channel.max_message_size)
        self._plain = {c.name: c for c in channels if not c.is_family}
        self._family = lru_cache(maxsize=_KNOWN_NAMES)(_Families(c for c in channels if c.is_family).find)

    def __reduce__(self) -> tuple[type[Registry], tuple[tuple[Channel, ...], Channel]]:
        """Pickle the channels alone: caches are rebuilt."""
        return Registry, (self.channels, self.defaults)

    def get(self, name: str) -> Channel | None:
        """Return the channel of this name or the family it belongs to; None if there is neither."""
        channel = self._plain.get(name)
        if channel is None and len(name) <= MAX_NAME:
            return self._family(name)
        return channel

    def forget_names(self) -> None:
        """Empty the cache of names: each is looked up again when it is used next."""
        self._family.cache_clear()

    def find(self, name: str) -> Channel:
        """Return what :meth:`get` does; raise :class:`UnknownChannelError` instead of returning None."""
        channel = self.get(name)
        if channel is None:
            msg = f"there is no channel {name[:255]!r}: declare it in channels.yaml"
            raise UnknownChannelError(msg)
        return channel

    def max_publish_size(self, identity: Identity) -> int:
        """Return the largest :meth:`Channel.max_publish_size` of all channels."""
        return max((most for access, most in self._max_publish_size.items() if identity.may(access)), default=0)

    def history(self, name: str) -> HistoryWindow:
        """Return the window of a channel's history; for an undeclared channel, that of ``defaults``."""
        return (self.get(name) or self.defaults).history


class _Families:
    """The families by prefix: trying one after the other would take longer than a push."""

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
