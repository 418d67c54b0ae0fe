"""What one valid file means, in one environment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from app.config.values.backend_url import kind
from app.core.channel import Access, Registry

Operators = Access | None
"""Who is an operator: ``anyone``, or who has a ``key``; None for whoever is on loopback, else who has a key."""

RESTART_NEEDED = "'backend' or 'postgres' has changed: the old serves until a restart"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one valid file means, in one environment."""

    path: Path
    digest: str
    """A short hash of the file's content."""

    backend: str = field(repr=False)
    """The backend's URL; it may hold a password."""

    direct_url: str | None = field(repr=False)
    """The database without the pooler that ``backend`` may name; None where that is not Postgres, or names none."""

    inline: bool
    """Whether small commits carry their messages inside NOTIFY."""

    keys: tuple[bytes, ...] = field(repr=False)
    """The keys for ``publish: key``."""

    origins: tuple[str, ...]
    """``*`` for any, ``null``, or ``scheme://host[:port]`` as browsers send it; the host may begin with ``*.``."""

    operators: Operators
    """Who sees what is going on here, and may publish where only operators may."""

    console: bool
    """Whether the console page is served."""

    registry: Registry
    warnings: tuple[str, ...]
    """Sentences for the log, about what is allowed but may not be meant."""

    @property
    def backend_kind(self) -> str:
        """``memory`` or ``postgres``, whichever way the URL spells it."""
        return kind(self.backend)

    def needs_restart_from(self, other: Settings) -> bool:
        """Whether a process that was started with ``other`` must be restarted to serve these."""
        return (self.backend, self.direct_url, self.inline) != (other.backend, other.direct_url, other.inline)

    def over_backend_of(self, other: Self) -> Self:
        """Return these over the backend of ``other``; with a warning if it is not the one that the file names."""
        if not self.needs_restart_from(other):
            return self
        return replace(
            self,
            backend=other.backend,
            direct_url=other.direct_url,
            inline=other.inline,
            warnings=(*self.warnings, RESTART_NEEDED),
        )
