"""Opens the backend that the settings name. Drivers are imported here, where they are needed, and nowhere before."""

from __future__ import annotations

from collections.abc import Callable

from app.bus.backend import Backend, Retention
from app.config import BackendSettings
from app.core.ports import Meter

Opener = Callable[[BackendSettings, Retention, Meter], Backend]
"""Builds a backend, which is not connected yet."""


def open_backend(settings: BackendSettings, retention: Retention, meter: Meter) -> Backend:
    """Return the backend, not connected yet."""
    return _OPENERS[settings.engine.name](settings, retention, meter)


def _memory(settings: BackendSettings, retention: Retention, meter: Meter) -> Backend:  # noqa: ARG001 — as the others
    from app.bus.memory import MemoryBackend  # noqa: PLC0415 — see above

    return MemoryBackend(retention)


def _postgres(settings: BackendSettings, retention: Retention, meter: Meter) -> Backend:
    from app.bus.postgres import PostgresBackend  # noqa: PLC0415 — see above

    return PostgresBackend(
        settings.url, direct_url=settings.direct_url, retention=retention, inline=settings.inline, meter=meter
    )


_OPENERS: dict[str, Opener] = {"memory": _memory, "postgres": _postgres}
"""By the names of :data:`~app.core.engines.ENGINES`."""
