"""What the file and the environment mean together: what cannot work, and what may not be meant."""

from __future__ import annotations

from ipaddress import ip_address

from app.config.backend import direct_refusal, kind
from app.config.environment import Environment
from app.config.problems import ConfigError, Problem
from app.config.settings import Settings
from app.core.channel import Access, Channel, Registry


def check_deployment(environment: Environment, settings: Settings) -> None:
    """Raise :class:`ConfigError` when the settings cannot be served in this environment."""
    if environment.workers > 1 and settings.backend_kind == "memory":
        message = (
            f"{environment.workers} workers cannot share memory://, which lives in one process: "
            "set WEB_CONCURRENCY=1, or a backend that workers can share"
        )
        raise ConfigError([Problem("", 0, 0, "WEB_CONCURRENCY", message)])
    if environment.metrics_port == environment.port:
        message = f"is PORT too ({environment.port}): set another one, or none to have /metrics on PORT"
        raise ConfigError([Problem("", 0, 0, "METRICS_PORT", message)])


def direct_url(environment: Environment, backend: str) -> str | None:
    """Return the URL that goes around a pooler, where the backend is one to have a pooler.

    Raises :class:`ConfigError`.
    """
    url = environment.direct_database_url
    if url is None or kind(backend) != "postgres":
        return None
    if message := direct_refusal(url):
        raise ConfigError([Problem("", 0, 0, "DIRECT_DATABASE_URL", message)])
    return url


def warnings(environment: Environment, backend: str, keys: tuple[bytes, ...], registry: Registry) -> tuple[str, ...]:
    """Return a sentence for everything that works but may not be meant."""
    found = [_policy_warning(channel, backend, keys) for channel in registry.channels]
    if kind(backend) == "memory" and not _is_loopback(environment.host):
        found.append(f"memory:// on HOST {environment.host}: a stop loses all messages; set DATABASE_URL to keep them")
    return tuple(filter(None, found))


def _policy_warning(channel: Channel, backend: str, keys: tuple[bytes, ...]) -> str:
    if channel.publish is Access.ANYONE:
        return f"anyone may publish to {channel.name!r}"
    if channel.publish is Access.KEY and not keys:
        from_sql = " (SQL still can)" if kind(backend) == "postgres" else ""
        return f"nobody can push to {channel.name!r}: set PUSH_KEYS{from_sql}"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
