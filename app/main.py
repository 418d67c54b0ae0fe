"""The composition root: builds bus, hub and routes from the settings, and swaps them on reload."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import structlog
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__, telemetry
from app.bus.backend import Backend, Retention
from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.bus.postgres import PostgresBackend
from app.config import ConfigError, Environment, Settings, load, watch
from app.core.channel import History
from app.core.hub import Hub
from app.web.access import AccessLog
from app.web.auth import Authenticator
from app.web.health import ConfigState, Health
from app.web.routes import Edge, Routes

_log = structlog.get_logger("app")


def create_app() -> ASGIApp:
    """Make the ASGI application that a worker serves, from the process's environment.

    Raises :class:`~app.config.ConfigError`; ``python -m app serve`` has checked before.
    """
    environment = Environment.read(os.environ)
    telemetry.configure_logging(environment.log_format, environment.log_level)
    return AccessLog(Abide(environment))


def _open(settings: Settings, retention: Retention) -> Backend:
    if settings.backend_kind == "memory":
        return MemoryBackend(retention)
    return PostgresBackend(
        settings.backend, direct_url=settings.direct_url, retention=retention, inline=settings.inline
    )


class Abide:
    """The application: the routes of the settings in force, behind one reference."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._settings = load(environment)
        self._config_error: str | None = None
        self._bus = Bus(_open(self._settings, self._history))
        self._hub = Hub(self._bus, self._settings.registry)
        self._health = Health(self._bus.health, self._config_state)
        self._routes = self._build(self._settings)
        self._lifespan_app = Starlette(lifespan=self._lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection by the routes that are in force now."""
        app = self._lifespan_app if scope["type"] == "lifespan" else self._routes
        await app(scope, receive, send)

    def _history(self, channel: str) -> History:
        return self._settings.registry.history(channel)

    def _config_state(self) -> ConfigState:
        return ConfigState(hash=self._settings.digest, error=self._config_error)

    def _build(self, settings: Settings) -> Routes:
        return Routes(
            Edge(
                registry=settings.registry,
                authenticator=Authenticator(settings.keys),
                origins=settings.origins,
                publisher=self._bus,
                source=self._bus,
                hub=self._hub,
                health=self._health,
                version=__version__,
                console=settings.console,
            )
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        for warning in self._settings.warnings:
            _log.warning("config_warning", detail=warning)
        async with self._bus.running():
            watcher = asyncio.create_task(self._watch(), name="watch-config")
            _log.info("serving", channels=len(self._settings.registry.channels), config=self._settings.digest)
            yield
            watcher.cancel()

    async def _watch(self) -> None:
        async for change in watch(self._environment, self._settings.digest):
            if isinstance(change, ConfigError):
                self._config_error = str(change)
                _log.error("config_refused", problems=str(change).splitlines(), serving=self._settings.digest)
            else:
                self._apply(change)

    def _apply(self, settings: Settings) -> None:
        routes = self._build(settings)  # may fail, and then nothing has changed
        before, self._settings, self._routes, self._config_error = self._settings, settings, routes, None
        self._hub.apply(settings.registry)
        names = {channel.name for channel in settings.registry.channels}
        old = {channel.name for channel in before.registry.channels}
        _log.info("config_applied", config=settings.digest, added=sorted(names - old), removed=sorted(old - names))
        for warning in set(settings.warnings) - set(before.warnings):
            _log.warning("config_warning", detail=warning)
        if settings.needs_restart_from(before):
            _log.warning("restart_needed", detail="'backend' or 'postgres' has changed: the old serves until a restart")
