"""Channels and their policies: who may do what, and what fits.

All of it is immutable. A reload builds a new :class:`Registry` and swaps it in one assignment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from app.core.errors import ForbiddenError, SchemaError, TooLargeError, UnknownChannelError
from app.core.limits.rates import RateLimit
from app.core.rights.policy import ANYONE, KEY, Access, Identity, Policy, Question, Subject
from app.core.rights.token import Verb
from app.core.schema import Schema

MAX_NAME = 255
"""The most bytes that a name may have."""

ACCESS = "$access"
"""The server's own channel of what was taken back, and which connections to close. ``abide.revoke`` writes it, too."""

TICKETS = "$tickets"
"""The server's own channel of tickets that were issued and used. ``$`` is in no name that can be declared."""

PLAIN = re.compile(rf"[A-Za-z0-9_.:-]{{1,{MAX_NAME}}}", re.ASCII)
"""A valid name of a channel that is declared itself."""

_CHARACTERS = r"[A-Za-z0-9_.:|@+=~'-]"

NAME = re.compile(rf"{_CHARACTERS}{{1,{MAX_NAME}}}", re.ASCII)
"""A valid name of a channel: it may have a parameter."""

PARAMETER = rf"{_CHARACTERS}{{1,128}}"
"""A valid value of a family's parameter: it holds a UUID, an e-mail address, and the subjects of every common login.

No character of it needs an escape in JSON, and none is the ``*`` of grants. It cannot change: names are in logs.
"""

_PARAMETER = re.compile(PARAMETER, re.ASCII)

RESERVED = frozenset(
    (
        "push", "ws", "echo", "health", "metrics", "channels", "docs", "redoc", "openapi.json", "asyncapi.json",
        "console", "client.js", "ticket", "revoke", "disconnect", "static", "favicon.ico", "robots.txt",
    )
)  # fmt: skip
"""Names that are paths of the server itself."""

_KNOWN_NAMES = 30_000
"""How many names the registry caches the family of, in some 7 MB: a search takes longer than everything else it does.

With one name more in turns, nothing that is asked for is there.
"""

MAX_MESSAGE_SIZE = 1024 * 1024
"""The largest ``max_message_size`` of a channel, in bytes."""


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


@dataclass(frozen=True, slots=True)
class Channel:
    """One declared channel, or a family such as ``chat.{room}``; the rules for its messages."""

    name: str
    publish: Policy = KEY
    subscribe: Policy = ANYONE
    client_publish: bool = False
    history: HistoryWindow = field(default_factory=HistoryWindow)
    max_message_size: int = 64 * 1024
    slow_subscriber: SlowSubscriber = SlowSubscriber.CATCH_UP
    schema: Schema | None = None
    """What messages must fit; None for any JSON."""
    rate_limit: RateLimit | None = None
    topic: str | None = None
    """The topic that the channel is in an engine with topics that others write; None for one of its own."""
    prefix: str = field(init=False, repr=False, compare=False)
    """The literal text before a family's parameter; the whole name of a plain channel."""
    suffix: str = field(init=False, repr=False, compare=False)
    """The literal text after a family's parameter."""
    wildcard: str | None = field(init=False, repr=False, compare=False)
    """The name of a family as grants have it, with ``*`` for its parameter; None for a plain channel."""

    def __post_init__(self) -> None:
        """Split the name once: each push and each handshake asks for its parts."""
        prefix, brace, rest = self.name.partition("{")
        suffix = rest.partition("}")[2]
        wildcard = f"{prefix}*{suffix}" if brace else None
        for part, value in (("prefix", prefix), ("suffix", suffix), ("wildcard", wildcard)):
            object.__setattr__(self, part, value)  # the class is frozen

    @property
    def is_family(self) -> bool:
        """Whether the name holds a parameter."""
        return self.wildcard is not None

    def parameter(self, name: str) -> str | None:
        """Return the parameter in a name of this family; None for a plain channel."""
        return None if self.wildcard is None else name[len(self.prefix) : len(name) - len(self.suffix)]

    def check_publish(self, name: str, identity: Identity) -> Question | None:
        """Return None if the caller may publish to this channel's ``name``, or what the application must be asked.

        Raises :class:`UnauthorisedError` or :class:`ForbiddenError`.
        """
        return self._check(Verb.PUBLISH, self.publish, name, identity)

    def admits_to_all(self, identity: Identity) -> bool:
        """Whether the caller may publish to every name of this channel, and the application need not be asked."""
        every = self.name if self.wildcard is None else self.wildcard
        subject = Subject(Verb.PUBLISH, every, self.name, self.wildcard, None)
        return self.publish.admitting(identity, subject) is not None

    def check_client_publish(self, name: str, identity: Identity) -> Question | None:
        """Decide as :meth:`check_publish` does; also raise unless subscribers may publish over their sockets."""
        if not self.client_publish:
            msg = f"channel {self.name!r} does not accept messages from its subscribers (client_publish: false)"
            raise ForbiddenError(msg)
        return self.check_publish(name, identity)

    def check_subscribe(self, name: str, identity: Identity) -> Question | None:
        """Decide as :meth:`check_publish` does, for a subscriber."""
        return self._check(Verb.SUBSCRIBE, self.subscribe, name, identity)

    def _check(self, verb: Verb, policy: Policy, name: str, identity: Identity) -> Question | None:
        if not policy.asks:
            identity.check()
        if policy.entries == (Access.ANYONE,):
            return None
        token = identity.token
        if token is not None and Access.TOKEN in policy.entries and token.rights.cover(verb, name, self.wildcard):
            return None  # as most tokens are admitted: no more of the name needs to be known
        subject = Subject(verb, name, self.name, self.wildcard, self.parameter(name))
        if policy.admitting(identity, subject) is not None:
            return None
        if policy.asks:
            return Question(verb, name, self.name, subject.parameter)
        raise policy.refusal(identity, subject)

    def max_publish_size(self, identity: Identity) -> int:
        """Return the size of the largest message that the caller may publish over its socket, in bytes; 0 for none."""
        return self.max_message_size if self.client_publish and self.publish.might_admit(identity) else 0

    def check_size(self, data: bytes) -> None:
        """Raise :class:`TooLargeError` if the message is larger than ``max_message_size``."""
        if len(data) > self.max_message_size:
            msg = (
                f"the message has {len(data)} bytes as JSON; channel {self.name!r} accepts at most "
                f"{self.max_message_size} (max_message_size)"
            )
            raise TooLargeError(msg)

    def check_schema(self, data: bytes) -> None:
        """Raise :class:`SchemaError` if the channel has a schema that the message does not fit."""
        misfit = self.schema.misfit(data) if self.schema is not None else None
        if misfit is not None:
            what = repr(misfit.pointer) if misfit.pointer else "the message"
            msg = f"{what} does not fit the schema of channel {self.name!r}: {misfit.reason}"
            raise SchemaError(msg, pointer=misfit.pointer)


class Registry:
    """The declared channels, looked up by name.

    A plain channel takes precedence over a family; among families the longest prefix wins, then the longest suffix.
    """

    def __init__(self, channels: tuple[Channel, ...], defaults: Channel) -> None:
        self.channels = channels
        self.defaults = defaults
        self._max_publish_size: dict[Policy, int] = {}
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

    def without_history(self) -> Registry:
        """Return the same channels where none keeps messages."""
        channels = tuple(map(_without_history, self.channels))
        return Registry(channels, _without_history(self.defaults))

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
        sizes = (most for policy, most in self._max_publish_size.items() if policy.might_admit(identity))
        return max(sizes, default=0)

    def history(self, name: str) -> HistoryWindow:
        """Return the window of a channel's history; for an undeclared channel, that of ``defaults``."""
        return (self.get(name) or self.defaults).history


def _without_history(channel: Channel) -> Channel:
    return replace(channel, history=replace(channel.history, size=0))


class _Families:
    """The families by prefix: trying one after the other would take longer than a push."""

    def __init__(self, families: Iterable[Channel]) -> None:
        self._by_prefix: dict[str, list[tuple[str, Channel]]] = {}
        for family in families:
            self._by_prefix.setdefault(family.prefix, []).append((family.suffix, family))
        for found in self._by_prefix.values():
            found.sort(key=lambda entry: len(entry[0]), reverse=True)
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix}, reverse=True)

    def find(self, name: str) -> Channel | None:
        """Return the family that a name belongs to."""
        if name in RESERVED:
            return None
        for length in self._lengths:
            for suffix, family in self._by_prefix.get(name[:length], ()):
                if name.endswith(suffix) and _PARAMETER.fullmatch(name, length, len(name) - len(suffix)):
                    return family
        return None
