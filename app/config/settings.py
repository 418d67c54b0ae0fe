"""What one valid file means, in one environment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from app.access.auth_settings import AuthSettings
from app.config.backends.backend_settings import BackendSettings
from app.core.channel import Registry
from app.core.engines import Engine
from app.core.ports import Limits
from app.core.rights.policy import Access

Operators = Access | None
"""Who is an operator: ``anyone``, or holders of a ``key``; None for callers on loopback, else holders of a key."""

RESTART_NEEDED = "'backend', 'postgres', 'redis' or 'kafka' has changed: restart the server to use the new value"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one valid file means, in one environment."""

    path: Path
    digest: str
    """A short hash of the file's content."""

    backend: BackendSettings
    """Where messages are kept."""

    auth: AuthSettings = field(repr=False)
    """How callers prove who they are."""

    origins: tuple[str, ...]
    """``*`` for any, ``null``, or ``scheme://host[:port]`` as browsers send it; the host may start with ``*.``."""

    operators: Operators
    """Who sees channels, metrics and documents, and may publish where ``publish: operators`` says so."""

    limits: Limits
    """How much clients may take of one worker."""

    console: bool
    """Whether the console page is served."""

    registry: Registry
    schemas: tuple[str, ...]
    """The paths of the schema files that the file names."""

    warnings: tuple[str, ...] = ()
    """Sentences for the log, about settings that are valid but may be a mistake."""

    def needs_restart_from(self, other: Settings) -> bool:
        """Whether a server that started with ``other`` must restart to use these settings."""
        return self.backend != other.backend

    def served_by(self, engine: Engine) -> Self:
        """Return these settings as that engine can serve them: without history if it keeps none."""
        return self if engine.has_positions else replace(self, registry=self.registry.without_history())

    def over_backend_of(self, other: Self) -> Self:
        """Return these settings with the backend of ``other``, and a warning if the file names another one."""
        if not self.needs_restart_from(other):
            return self
        return replace(self, backend=other.backend, warnings=(*self.warnings, RESTART_NEEDED))
