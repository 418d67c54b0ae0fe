"""The backend that the file and the environment name, with what they say of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.config.backends.url import kind
from app.core.engines import ENGINES, Engine


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """Where messages are kept. A change of any of it needs a restart."""

    url: str = field(repr=False)
    """It may hold a password."""

    direct_url: str | None = field(default=None, repr=False)
    """The URL of the database without its pooler; None if none was given, or the backend is not Postgres."""

    inline: bool = True
    """Whether small commits to Postgres carry their messages inside NOTIFY."""

    min_replicas: int = 0
    """How many replicas of Redis must have a commit before it counts as stored."""

    tls: bool = False
    """Whether Kafka's brokers are reached by TLS, whatever the URL says."""

    ca: str | None = None
    """The file with the certificate of the brokers' authority; None for those that the system trusts."""

    sasl: str = "PLAIN"
    """The mechanism by which the URL's user logs in to Kafka."""

    @property
    def engine(self) -> Engine:
        """What the URL names, however it spells it."""
        return ENGINES[kind(self.url)]
