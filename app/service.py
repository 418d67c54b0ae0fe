"""The composition root: builds bus, hub and routes from the settings, and swaps them on reload."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import ASGIApp

from app import __version__
from app.access import windows
from app.access.entries import Revocation
from app.access.remote.remotes import Remote, Remotes
from app.access.revocations import Revocations
from app.access.tickets import Tickets
from app.access.tokens import Tokens
from app.bus.backend import BackendHealth
from app.bus.bus import Bus
from app.config import (
    RESTART_NEEDED,
    ConfigError,
    Environment,
    Settings,
    check_deployment,
    differences,
    first_of,
    load,
    watch,
)
from app.core import turns
from app.core.channel import Channel, HistoryWindow, Registry
from app.core.delivery.hub import Hub
from app.core.errors import AbideError, UnavailableError
from app.core.limits.limiter import Limiter
from app.core.ports import INTAKE, LIMITS, METER, Publisher
from app.core.tail import tail_bytes
from app.open_backend import open_backend
from app.server.machine_memory import memory_limit
from app.telemetry.activity import BOUNDS, BUSY_SECONDS, INTERNAL
from app.telemetry.counts import Count, Counted, Counts
from app.telemetry.metrics import Metrics
from app.web.documents.lazy_document import Object
from app.web.edge.auth import Authenticator
from app.web.edge.doors import Doors
from app.web.operate.health import ConfigState, Health
from app.web.operate.overview import Observed
from app.web.publish import in_process
from app.web.routes import NOT_STARTED, Edge, Routes

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing  # an extra

_TOKEN_SECONDS = 24 * 3600
"""How long what was taken back is kept while no tokens are configured: they may be again."""

_LOADING_SECONDS = 3.0
"""How long the start waits to learn what was taken back; until then tokens are refused."""

_FORGET_SECONDS = 10
"""Seconds for which the family of a name, or a publisher that is idle, is remembered, at most."""

_log = structlog.get_logger("app")


class Service:
    """The running part of the application: the settings in force, and everything built from them. It runs once.

    ``openapi`` and ``otherwise`` are passed to :class:`~app.web.routes.Edge`. Raises
    :class:`~app.config.ConfigError`.
    """

    def __init__(
        self, environment: Environment, tracing: Tracing | None, *, openapi: Callable[[], Object], otherwise: ASGIApp
    ) -> None:
        self._environment = environment
        self._openapi, self._otherwise = openapi, otherwise
        self._settings = load(environment)
        check_deployment(environment, self._settings)
        self._engine = self._settings.backend.engine
        """The one that runs, whatever the file names later."""
        self._config_error: str | None = None
        self._metrics = Metrics(_declared_by(self._settings.registry))
        self._counts = Counts()
        self._bus = Bus(
            open_backend(self._settings.backend, self._history, self._metrics, self._declared), self._metrics
        )
        self._limiter = Limiter(self._settings.limits, self._metrics)
        self._tracing = tracing
        self._publisher: Publisher = tracing.publisher(self._bus) if tracing else self._bus
        meter = tracing.meter(self._metrics) if tracing else self._metrics
        source = tracing.source(self._bus) if tracing else self._bus
        self._hub = Hub(source, self._settings.registry, meter=meter, tail_bytes=tail_bytes(memory_limit()))
        self._revocations = Revocations(
            self._token_seconds, on_revoked=self._close_revoked, on_disconnect=self._hub.disconnect
        )
        self._access: asyncio.Task[None] | None = None
        """Learns what is taken back; None while no callers are identified by tokens or by the application."""
        self._tickets = Tickets(self._bus, self._bus)
        self._remotes = Remotes(self._metrics)
        self._remote = self._remotes.of(self._settings.auth)
        authenticator = self._authenticator(self._settings, self._remote)
        self._doors = Doors(authenticator)
        self._hub.judge = authenticator.judge
        self._health = Health(self._backend_health, self._config_state, self._access_problem)
        self.is_running = False
        """Whether it can store and deliver messages."""
        self.was_started = False
        self.routes = self._build(self._settings, authenticator)
        """The routes of the settings in force."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[dict[str, Any]]:
        """Run while the context is open; it yields the state for the server. Enter it once."""
        self.was_started = True
        _warn(self._settings.warnings)
        self._metrics.declare(_names(self._settings))
        async with self._bus.running():
            await self._learn_revocations()
            await self._remotes.use(self._remote, self._settings.auth)
            tasks = [
                asyncio.create_task(self._watch(), name="watch-config"),
                asyncio.create_task(self._metrics.run(self._sample), name="metrics"),
                asyncio.create_task(self._forget(), name="forget"),
                asyncio.create_task(self._counts.run(self._count), name="counts"),
                asyncio.create_task(self._metrics.activity.run(self._metrics.settle), name="activity"),
            ]
            _log.info("serving", channels=len(self._settings.registry.channels), config=self._settings.digest)
            self.is_running = True
            try:
                yield {INTAKE: self._limiter.intake, LIMITS: self._limiter.in_force, METER: self._metrics}
            finally:
                self.is_running = False
                for task in [*tasks, *([] if self._access is None else [self._access])]:
                    task.cancel()
                await self._remotes.aclose()
            await self._sample()
        self._metrics.flush()
        if self._tracing:
            await asyncio.to_thread(self._tracing.close)

    async def publish(self, channel: str, data: object, key: str | None) -> str:
        """Publish one message; see :meth:`app.main.Abide.publish`."""
        if not self.is_running:
            raise RuntimeError(NOT_STARTED)
        return await in_process.publish(self._settings.registry, self._publisher, channel, data, key)

    def _history(self, channel: str) -> HistoryWindow:
        own = windows.internal(channel, self._token_seconds()) if channel.startswith(INTERNAL) else None
        return own or self._settings.registry.history(channel)

    def _declared(self, channel: str) -> Channel | None:
        return self._settings.registry.get(channel)

    def _token_seconds(self) -> float:
        tokens = self._settings.auth.tokens
        return _TOKEN_SECONDS if tokens is None else tokens.max_lifetime + tokens.leeway

    def _close_revoked(self, revocation: Revocation) -> None:
        self._hub.sessions.revoke(revocation.sub, revocation.jti, revocation.before)

    def _is_revoked(self, sub: str | None, jti: str | None, issued: float | None) -> bool:
        """Whether a token was taken back. Raises UnavailableError while that is not known."""
        if not self._revocations.is_loaded:
            raise UnavailableError(self._revocations.problem or NOT_STARTED)
        return self._revocations.is_revoked(sub, jti, issued)

    async def _learn_revocations(self) -> None:
        """Begin to learn what is taken back, if callers are identified by what can be."""
        auth = self._settings.auth
        if self._access is not None or (auth.tokens is None and auth.ask is None):
            return
        with contextlib.suppress(TimeoutError, AbideError):
            async with asyncio.timeout(_LOADING_SECONDS):
                await self._revocations.load(self._bus)
        self._access = asyncio.create_task(self._revocations.run(self._bus), name="revocations")

    async def _backend_health(self) -> BackendHealth:
        if not self.is_running:
            return BackendHealth(ok=False, detail=NOT_STARTED)
        health = await self._bus.health()
        problem = None if self._access is None else self._revocations.problem
        return health if problem is None or not health.ok else BackendHealth(ok=False, detail=problem)

    def _config_state(self) -> ConfigState:
        return ConfigState(hash=self._settings.digest, error=self._config_error)

    def _access_problem(self) -> str | None:
        problems = (self._remotes.problem, None if self._access is None else self._revocations.problem)
        return "; ".join(filter(None, problems)) or None

    def _authenticator(self, settings: Settings, remote: Remote) -> Authenticator:
        auth = settings.auth
        return Authenticator(
            auth,
            settings.origins,
            settings.operators,
            on_loopback=self._environment.on_loopback,
            tokens=None if auth.tokens is None else Tokens(auth.tokens, remote.jwks, self._is_revoked),
            tickets=None if auth.tokens is None else self._tickets,
            ask=None if remote.asker is None else remote.asker.ask,
        )

    def _build(self, settings: Settings, authenticator: Authenticator) -> Routes:
        edge = Edge(
            registry=settings.registry,
            authenticator=authenticator,
            doors=self._doors,
            revoke=self._revocations.take,
            publisher=self._publisher,
            source=self._bus,
            hub=self._hub,
            health=self._health,
            meter=self._metrics,
            metrics=None if self._environment.metrics_port else self._metrics.exposition,
            version=__version__,
            console=settings.console,
            limiter=self._limiter,
            count_all=self._count_all,
            observe=self._observe,
            root_path=self._environment.root_path,
            has_positions=self._engine.has_positions,
            is_running=lambda: self.is_running,
            openapi=self._openapi,
            otherwise=self._otherwise,
        )
        return Routes(edge)

    async def _watch(self) -> None:
        async for change in watch(self._environment, self._settings.digest, self._settings.schemas):
            if isinstance(change, ConfigError):
                problems = change.summary()
                self._config_error = "\n".join(problems)
                self._metrics.config_ok = False
                _log.error("config_refused", problems=problems, serving=self._settings.digest)
            else:
                await self._apply(await asyncio.to_thread(change.served_by, self._engine))

    async def _forget(self) -> None:
        """Forget the names that were looked up, and idle publishers, so that those seen once take no memory."""
        while True:
            await asyncio.sleep(_FORGET_SECONDS)
            self._settings.registry.forget_names()
            await self._limiter.rates.forget()

    def _count(self) -> Counted:
        names, declared = self._metrics.activity.busiest
        return Counted(
            self._hub.counts(), dict(self._metrics.connections), len(self._hub.slow), self._slowest(), names, declared
        )

    async def _count_all(self) -> Mapping[str, Count]:
        return (await self._counted()).channels

    async def _counted(self) -> Counted:
        self._counts.tell(self._count())
        return await asyncio.to_thread(self._counts.of_all)

    async def _observe(self, since: int) -> Observed:
        counted = await self._counted()
        until, seconds = await asyncio.to_thread(self._metrics.activity.of_all, since)
        return Observed(
            workers=counted.workers,
            connections=counted.connections,
            channels=counted.channels,
            slow=counted.slow,
            lag=counted.lag,
            busy_names=counted.names,
            busy_declared=counted.declared,
            busy_seconds=BUSY_SECONDS,
            bounds=BOUNDS,
            until=until,
            seconds=seconds,
            warnings=first_of(self._settings.warnings),
        )

    def _slowest(self) -> int:
        """Return by how many messages the slowest subscription is behind."""
        return max((subscription.lag for subscription in self._hub.slow), default=0)

    async def _sample(self) -> None:
        """Give the metrics the values that are sampled, not counted."""
        self._metrics.sample(
            self._hub.subscribers,
            slow=len(self._hub.slow),
            lag=self._slowest(),
            backend_ok=(await self._bus.health()).ok,
        )

    async def _apply(self, settings: Settings) -> None:
        """Switch to new settings at one moment. The slow work around it runs in turns or in a thread."""
        remote = self._remotes.of(settings.auth)
        authenticator = self._authenticator(settings, remote)
        # May fail, and then nothing has changed.
        routes = await asyncio.to_thread(self._build, settings, authenticator)
        changes = await asyncio.to_thread(differences, self._settings, settings)
        before, self._settings, self.routes, self._config_error = self._settings, settings, routes, None
        self._doors.authenticator = authenticator
        self._limiter.apply(settings.limits)
        self._metrics.config_ok = True
        await self._metrics.rename(_declared_by(settings.registry))
        await self._hub.apply(settings.registry, authenticator.judge)
        names = await asyncio.to_thread(_new, _names(settings), _names(before))
        await turns.each(names, lambda name: self._metrics.declare((name,)))
        _log.info("config_applied", config=settings.digest, **changes._asdict())
        _warn(await asyncio.to_thread(_new, settings.warnings, before.warnings))
        await self._learn_revocations()
        await self._remotes.use(remote, settings.auth)
        if settings.needs_restart_from(before):
            _log.warning("restart_needed", detail=RESTART_NEEDED)


def _declared_by(registry: Registry) -> Callable[[str], str | None]:
    """Return a function that finds the declared name for a channel's name."""

    def declared(name: str) -> str | None:
        channel = registry.get(name)
        return None if channel is None else channel.name

    return declared


def _warn(warnings: Iterable[str]) -> None:
    for warning in first_of(warnings):
        _log.warning("config_warning", detail=warning)


def _names(settings: Settings) -> Iterator[str]:
    return (channel.name for channel in settings.registry.channels)


def _new(texts: Iterable[str], before: Iterable[str]) -> list[str]:
    """Return the texts that are not in ``before``."""
    known = set(before)
    return [text for text in texts if text not in known]
