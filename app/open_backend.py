"""Opens the backend that the settings name. Drivers are imported here, where they are needed, and nowhere before."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from app.bus.backend import Backend, Retention
from app.config import BackendSettings, ConfigError, Diagnostic, Settings
from app.config.backends import sqlite
from app.core.channel import Channel
from app.core.ports import Meter

Declared = Callable[[str], Channel | None]
"""Returns the declared channel of a name; None where there is none. Call it each time, as :data:`Retention`."""

Opener = Callable[[BackendSettings, Retention, Meter, Declared], Backend]
"""Builds a backend, which is not connected yet."""


def open_backend(settings: BackendSettings, retention: Retention, meter: Meter, declared: Declared) -> Backend:
    """Return the backend, not connected yet."""
    return _OPENERS[settings.engine.name](settings, retention, meter, declared)


def import_backend(engine: str) -> None:
    """Import the backend of an engine with its driver: what :func:`open_backend` will need."""
    import_module(_MODULES[engine])


def check_backend(settings: Settings) -> None:
    """Raise :class:`~app.config.ConfigError` if the backend cannot be opened from here, whoever answers there.

    Called before a server starts. A server that runs goes on, and readiness says what is wrong.
    """
    refuse = _REFUSALS.get(settings.backend.engine.name)
    if refuse is not None and (message := refuse(settings.backend)):
        raise ConfigError([Diagnostic(str(settings.path), 0, 0, "backend", message)])


def _memory(_: BackendSettings, retention: Retention, __: Meter, ___: Declared) -> Backend:
    from app.bus.memory import MemoryBackend  # noqa: PLC0415 — see above

    return MemoryBackend(retention)


def _postgres(settings: BackendSettings, retention: Retention, meter: Meter, _: Declared) -> Backend:
    from app.bus.postgres import PostgresBackend  # noqa: PLC0415 — see above

    return PostgresBackend(
        settings.url, direct_url=settings.direct_url, retention=retention, inline=settings.inline, meter=meter
    )


def _kafka(settings: BackendSettings, retention: Retention, _: Meter, declared: Declared) -> Backend:
    from app.bus import kafka  # noqa: PLC0415 — see above

    def topic(name: str) -> kafka.Declared:
        channel = declared(name)
        return kafka.Declared() if channel is None else kafka.Declared(channel.topic, channel.is_family)

    address = kafka.parse(settings.url, tls=settings.tls, ca=settings.ca, mechanism=settings.sasl)
    return kafka.KafkaBackend(address, retention=retention, declared=topic)


def _redis(settings: BackendSettings, retention: Retention, meter: Meter, _: Declared) -> Backend:
    from app.bus.redis.pubsub import PubSubBackend  # noqa: PLC0415 — see above

    return PubSubBackend(settings.url, retention=retention, meter=meter)


def _sqlite(settings: BackendSettings, retention: Retention, meter: Meter, _: Declared) -> Backend:
    from app.bus.sqlite import SqliteBackend  # noqa: PLC0415 — see above

    return SqliteBackend(sqlite.path(settings.url), retention=retention, meter=meter)


def _refuse_sqlite(settings: BackendSettings) -> str | None:
    from app.bus.sqlite import refusal  # noqa: PLC0415 — see above

    return refusal(sqlite.path(settings.url))


def _redis_stream(settings: BackendSettings, retention: Retention, meter: Meter, _: Declared) -> Backend:
    from app.bus.redis.streams import StreamsBackend  # noqa: PLC0415 — see above

    return StreamsBackend(settings.url, retention=retention, min_replicas=settings.min_replicas, meter=meter)


_OPENERS: dict[str, Opener] = {
    "memory": _memory,
    "postgres": _postgres,
    "redis": _redis,
    "sqlite": _sqlite,
    "redis-stream": _redis_stream,
    "kafka": _kafka,
}
"""By the names of :data:`~app.core.engines.ENGINES`."""

_MODULES = {
    "memory": "app.bus.memory",
    "postgres": "app.bus.postgres",
    "redis": "app.bus.redis.pubsub",
    "sqlite": "app.bus.sqlite",
    "redis-stream": "app.bus.redis.streams",
    "kafka": "app.bus.kafka",
}

_REFUSALS: dict[str, Callable[[BackendSettings], str | None]] = {"sqlite": _refuse_sqlite}
"""What says why an engine cannot be opened from here."""
