"""The environment variables that the server reads, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from app.config.diagnostics import ConfigError, Diagnostic, listed, quoted
from app.config.options import OPTIONS

LOG_FORMATS = ("json", "console")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

CHANNELS_CONFIG = Path("config/channels.yaml")
"""The file if none is named: in the current directory, else the one that ships with Abide."""

_ROOT = Path(__file__).resolve().parents[2]
_PATH = re.compile(r"/|(/[A-Za-z0-9_.~-]+)+/?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Environment:
    """The settings from the command line and the environment; the command line wins.

    A variable set to the empty string counts as unset.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    metrics_port: int | None = None
    """Port of ``/metrics``; None for ``port``."""

    channels_config: Path = CHANNELS_CONFIG
    workers: int = 1
    drain_seconds: int = 15
    max_connection_age: int = 0
    """Seconds; 0 for no limit."""

    log_format: str | None = None
    """``json`` or ``console``; None decides by whether the output is a terminal."""

    log_level: str = "info"
    otlp_endpoint: str | None = None
    """Where spans are sent; OpenTelemetry's own packages read its other variables."""

    direct_database_url: str | None = field(default=None, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """All variables, for ``${…}`` in the YAML file."""

    root_path: str = ""
    """The path that a proxy puts before every request's path, such as ``/realtime``; empty for none."""

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Environment:
        """Read ``environ``; raise a :class:`ConfigError` that names every wrong variable."""
        values = _Reader(environ)
        environment = cls(
            host=values.text("HOST", "127.0.0.1"),
            port=values.number("PORT", 8000, most=65535),
            metrics_port=values.number("METRICS_PORT", 0, most=65535) or None,
            channels_config=Path(values.text("CHANNELS_CONFIG", "") or _default_channels_config()),
            workers=values.number("WEB_CONCURRENCY", 1, least=1),
            drain_seconds=values.number("DRAIN_SECONDS", 15),
            max_connection_age=values.number("MAX_CONNECTION_AGE", 0, most=604_800),
            log_format=values.choice("LOG_FORMAT", LOG_FORMATS),
            log_level=values.choice("LOG_LEVEL", LOG_LEVELS) or "info",
            otlp_endpoint=values.text("OTEL_EXPORTER_OTLP_ENDPOINT", "") or None,
            root_path=values.path("ROOT_PATH"),
            direct_database_url=values.text("DIRECT_DATABASE_URL", "").strip() or None,
            variables=dict(environ),
        )
        if values.diagnostics:
            raise ConfigError(values.diagnostics)
        return environment

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach ``host``."""
        try:
            return self.host == "localhost" or ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


class _Reader:
    """Reads variables from a mapping and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.diagnostics: list[Diagnostic] = []

    def text(self, name: str, default: str) -> str:
        return OPTIONS.get(name) or self.environ.get(name) or default

    def number(self, name: str, default: int, *, least: int = 0, most: int = 10_000) -> int:
        text = self.text(name, str(default)).strip()
        if _NUMBER.fullmatch(text) and least <= int(text) <= most:
            return int(text)
        self._wrong(name, f"must be a whole number from {least} to {most}, not {quoted(text)}")
        return default

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        text = self.text(name, "").strip().lower()
        if text and text not in choices:
            self._wrong(name, f"must be {listed(choices)}, not {quoted(text)}")
        return text or None

    def path(self, name: str) -> str:
        """Return a path without its last slash: the empty string for ``/``."""
        text = self.text(name, "").strip()
        if text and not _PATH.fullmatch(text):
            self._wrong(name, f"must be a path such as /realtime, not {quoted(text)}")
            return ""
        return text.rstrip("/")

    def _wrong(self, name: str, message: str) -> None:
        self.diagnostics.append(Diagnostic("", 0, 0, OPTIONS.name(name), message))


def _default_channels_config() -> Path:
    shipped = _ROOT / CHANNELS_CONFIG
    return shipped if shipped.exists() and not CHANNELS_CONFIG.exists() else CHANNELS_CONFIG
