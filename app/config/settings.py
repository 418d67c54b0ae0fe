"""What one valid file means, in one environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from app.core.channel import Registry


@dataclass(frozen=True, slots=True)
class Settings:
    """What one valid file means, in one environment."""

    path: Path
    digest: str
    """A short hash of the file's content."""

    backend: str = field(repr=False)
    """The backend's URL; it may hold a password."""

    keys: tuple[bytes, ...] = field(repr=False)
    """The keys for ``publish: key``."""

    origins: tuple[str, ...]
    """``*`` for any, or ``scheme://host[:port]`` in lower case."""

    registry: Registry
    warnings: tuple[str, ...]
    """Sentences for the log, about what is allowed but may not be meant."""
