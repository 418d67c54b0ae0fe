"""What a reload has changed, key by key, for the log line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from app.config.backends.url import mask
from app.config.diagnostics import first_of, key_path
from app.config.settings import Settings
from app.config.values.units import write_duration, write_size
from app.core.channel import Channel
from app.core.schema import Schema

Write = Callable[[Any], str]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _schema(schema: Schema | None) -> str:
    """Return the path, and a hash that tells two contents apart."""
    return "none" if schema is None else f"{schema.path} ({schema.digest})"


def _or_none(value: object) -> str:
    return "none" if value is None else str(value)


_POLICY: dict[str, tuple[Callable[[Channel], Any], Write]] = {
    "publish": (lambda channel: channel.publish, _word),
    "subscribe": (lambda channel: channel.subscribe, _word),
    "client_publish": (lambda channel: channel.client_publish, _word),
    "history.size": (lambda channel: channel.history.size, _word),
    "history.ttl": (lambda channel: channel.history.ttl, write_duration),
    "max_message_size": (lambda channel: channel.max_message_size, write_size),
    "slow_subscriber": (lambda channel: channel.slow_subscriber, _word),
    "schema": (lambda channel: channel.schema, _schema),
    "rate_limit": (lambda channel: channel.rate_limit, _or_none),
    "topic": (lambda channel: channel.topic, _or_none),
}
"""How to read each key of a channel, and how to write its value."""

Changed = dict[str, tuple[Any, Any]]
"""Old and new value, by key."""


class Differences(NamedTuple):
    """The names and lines for a person to read: the first of each, and how many more there are."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    """``channels.news.publish: key -> anyone``; for keys only their number."""


def differences(before: Settings, after: Settings) -> Differences:
    """Return what is different. With thousands of channels this takes a while: call it in a thread."""
    old = {channel.name: channel for channel in before.registry.channels}
    new = {channel.name: channel for channel in after.registry.channels}
    return Differences(
        first_of(sorted(new.keys() - old.keys())),
        first_of(sorted(old.keys() - new.keys())),
        first_of(_lines(before, after, [(old[name], new[name]) for name in new if name in old])),
    )


def _lines(before: Settings, after: Settings, channels: Iterable[tuple[Channel, Channel]]) -> Iterator[str]:
    yield from _server(before, after)
    defaults = _changed(before.registry.defaults, after.registry.defaults)
    yield from _written(("defaults",), defaults)
    for old, new in channels:
        if old != new:
            # A change of the defaults is reported once, not for each channel.
            own = {key: values for key, values in _changed(old, new).items() if defaults.get(key) != values}
            yield from _written(("channels", new.name), own)


def _server(before: Settings, after: Settings) -> Iterator[str]:
    for key, write in _SERVER.items():
        old, new = write(before), write(after)
        if old != new:
            yield f"{key}: {old} -> {new}"
    old_keys, new_keys = before.auth.keys, after.auth.keys
    if old_keys != new_keys:
        added, removed = len(set(new_keys) - set(old_keys)), len(set(old_keys) - set(new_keys))
        yield f"auth.keys: {len(old_keys)} -> {len(new_keys)} ({added} added, {removed} removed)"
    for part in ("tokens", "ask"):
        if getattr(before.auth, part) != getattr(after.auth, part):
            yield f"auth.{part}: changed"


_SERVER: dict[str, Callable[[Settings], str]] = {
    "backend": lambda settings: mask(settings.backend.url),
    "postgres.inline": lambda settings: _word(settings.backend.inline),
    "redis.min_replicas": lambda settings: str(settings.backend.min_replicas),
    "kafka.tls": lambda settings: _word(settings.backend.tls),
    "kafka.ca": lambda settings: _or_none(settings.backend.ca),
    "kafka.sasl": lambda settings: settings.backend.sasl,
    "origins": lambda settings: ", ".join(settings.origins) or "none",
    "operators": lambda settings: settings.operators or "left out",
    "limits.connections": lambda settings: str(settings.limits.connections),
    "limits.connections_per_address": lambda settings: _or_none(settings.limits.connections_per_address),
    "limits.handshakes": lambda settings: str(settings.limits.handshakes),
    "limits.subscriptions": lambda settings: str(settings.limits.subscriptions),
    "limits.frames": lambda settings: str(settings.limits.frames),
    "limits.bodies": lambda settings: write_size(settings.limits.bodies),
    "limits.request_time": lambda settings: write_duration(int(settings.limits.request_time)),
    "limits.answer_time": lambda settings: write_duration(int(settings.limits.answer_time)),
    "console": lambda settings: _word(settings.console),
}
"""How to write the settings of the server itself, by key."""


def _changed(old: Channel, new: Channel) -> Changed:
    values = {key: (read(old), read(new)) for key, (read, _) in _POLICY.items()}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def _written(location: tuple[str, ...], changed: Changed) -> Iterator[str]:
    for key, values in changed.items():
        old, new = map(_POLICY[key][1], values)
        yield f"{key_path(location)}.{key}: {old} -> {new}"
