"""Checks the file and the environment together: what cannot work, and what may be a mistake."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from importlib.util import find_spec

from app.config.backends.url import direct_refusal, kind
from app.config.diagnostics import ConfigError, Diagnostic
from app.config.environment import Environment
from app.config.options import OPTIONS
from app.config.settings import Settings
from app.core.channel import Channel
from app.core.engines import ENGINES
from app.core.rights.policy import Access

_SHIPPED_BACKEND = "backend: ${DATABASE_URL:-memory://}"
_SHIPPED_KEYS = 'auth: {keys: "${PUSH_KEYS:-}"}'
"""What the shipped file says, and another one has to say, for these variables to have a meaning."""

_VARIABLE = re.compile(rb"\$[A-Z_][A-Z0-9_]*")
"""A variable as people write it who know them from a shell."""


def check_deployment(environment: Environment, settings: Settings) -> None:
    """Raise :class:`ConfigError` if the settings cannot be served in this environment."""
    _check_driver(settings)
    most = most_workers(settings)
    if most is not None and environment.workers > most:
        message = (
            f"{environment.workers} workers cannot share memory://, which lives in one process: "
            "run one worker, or set DATABASE_URL to a backend that workers can share"
        )
        if _ignores_database(environment, settings):
            message += f"; the file does not use DATABASE_URL: write {_SHIPPED_BACKEND}"
        raise ConfigError([Diagnostic("", 0, 0, OPTIONS.name("WEB_CONCURRENCY"), message)])
    if environment.metrics_port == environment.port:
        port = OPTIONS.name("PORT")
        message = f"is {port} too ({environment.port}): set another one, or none to have /metrics on {port}"
        raise ConfigError([Diagnostic("", 0, 0, "METRICS_PORT", message)])


def _check_driver(settings: Settings) -> None:
    engine = settings.backend.engine
    if not engine.driver:
        return
    try:
        found = find_spec(engine.driver)
    except ImportError:
        found = None
    if found is None:
        message = (
            f"{engine.name}:// needs the package {engine.driver!r}, which is not installed: "
            f"pip install {engine.driver}, or install Abide with its extra {engine.extra!r}"
        )
        raise ConfigError([Diagnostic("", 0, 0, "backend", message)])


def most_workers(settings: Settings) -> int | None:
    """Return how many workers can serve the settings; None for any number."""
    return 1 if settings.backend.engine.workers == "one process" else None


def direct_url(environment: Environment, backend: str) -> str | None:
    """Return the URL of the database without its pooler; None if the backend is not Postgres.

    Raises :class:`ConfigError`.
    """
    url = environment.direct_database_url
    if url is None or kind(backend) != "postgres":
        return None
    if message := direct_refusal(url):
        raise ConfigError([Diagnostic("", 0, 0, "DIRECT_DATABASE_URL", message)])
    return url


def warnings(environment: Environment, settings: Settings, variables: AbstractSet[str]) -> tuple[str, ...]:
    """Return a sentence for everything that works but may be a mistake; ``variables`` are those that the file names."""
    set_keys = "set PUSH_KEYS" if "PUSH_KEYS" in variables else "set auth.keys"
    found = [_policy_warning(channel, environment, settings, set_keys) for channel in settings.registry.channels]
    if _ignores_database(environment, settings):
        found.append(f"DATABASE_URL is set, but messages are kept in memory: write {_SHIPPED_BACKEND}")
    if environment.variables.get("PUSH_KEYS") and not settings.auth.keys:
        found.append(f"PUSH_KEYS is set, but there are no keys: write {_SHIPPED_KEYS}")
    if any(_VARIABLE.fullmatch(key.secret) for key in settings.auth.keys):
        found.append("auth.keys: a key looks like the name of a variable, and counts as it is written: write ${NAME}")
    if settings.operators is Access.ANYONE:
        found.append("operators: anyone: everybody who reaches the server sees its channels, metrics and documents")
    ask = settings.auth.ask
    if ask is not None and "cookie" in ask.forward and "*" in settings.origins:
        found.append(
            "auth.ask forwards cookies, and origins is *: a page of any site can ask with its reader's cookie; name "
            "your pages in 'origins', or let your application look at 'origin'"
        )
    if settings.backend.engine.history == "process" and not environment.on_loopback:
        host = f"{OPTIONS.name('HOST')}={environment.host}"
        found.append(
            f"memory:// is served to other machines ({host}): a stop loses all messages; set DATABASE_URL to keep them"
        )
    if settings.backend.min_replicas and settings.backend.engine.name == "redis":
        found.append("redis.min_replicas is without effect: redis:// keeps no messages; redis-stream:// keeps them")
    collector = environment.otlp_endpoint
    if collector is not None and not collector.startswith(("http://", "https://")):
        found.append("OTEL_EXPORTER_OTLP_ENDPOINT is no URL such as http://collector:4318: spans cannot be sent")
    return tuple(filter(None, found))


def _ignores_database(environment: Environment, settings: Settings) -> bool:
    url = environment.variables.get("DATABASE_URL", "").strip()
    return settings.backend.engine.name == "memory" and kind(url) in ENGINES.keys() - {"memory"}


def _policy_warning(channel: Channel, environment: Environment, settings: Settings, set_keys: str) -> str:
    policy, operators = channel.publish, settings.operators
    if Access.ANYONE in policy or (Access.OPERATORS in policy and operators is Access.ANYONE):
        return f"anyone may publish to {channel.name!r}"
    by_key = {Access.KEY} if operators is None and environment.on_loopback else {Access.KEY, Access.OPERATORS}
    if by_key.issuperset(policy.entries) and not settings.auth.keys:
        from_sql = " (SQL still can)" if settings.backend.engine.publishes_from_sql else ""
        return f"nobody can push to {channel.name!r}: {set_keys}{from_sql}"
    return ""
