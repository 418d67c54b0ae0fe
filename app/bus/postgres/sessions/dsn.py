"""Turns database URLs, as hosts hand them out, into what asyncpg takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_UNDERSTOOD = frozenset(
    (
        "host", "port", "dbname", "database", "user", "password", "passfile", "options", "sslmode", "sslcert", "sslkey",
        "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version",
        "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib", "service", "servicefile",
    )
)  # fmt: skip
"""Parameters that asyncpg acts on. It would send others to the server as settings, and the server refuses a session
with a setting that it does not know (``channel_binding``, ``pgbouncer``, …)."""

_PUBLIC = ("sslrootcert", "system")
"""How libpq asks for the machine's own list of authorities, with verify-full. asyncpg would look for such a file."""


@dataclass(frozen=True, slots=True)
class Dsn:
    """Where to connect."""

    url: str = field(repr=False)
    place: str
    """Host and port, or the folder of a socket, and the database, for logs: never the user or the password."""
    pooled: bool
    """Whether a pooler in transaction mode is in front of it: no prepared statements, no sessions."""
    public: bool = False
    """Whether the machine's own list of authorities checks the server."""


def parse(url: str, *, pooled: bool = False) -> Dsn:
    """Read a URL. Drops a ``+driver`` in its scheme and parameters that only other drivers know."""
    # urlsplit does not accept every driver's name as part of the scheme.
    parts = urlsplit("postgres" + url[url.index("://") :])
    given = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in map(_translate, given) if name in _UNDERSTOOD]
    public = _PUBLIC in kept
    if public:
        kept.remove(_PUBLIC)
    return Dsn(
        url=urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(kept), "")),
        place=(parts.netloc.rpartition("@")[2] or dict(kept).get("host", "")) + parts.path,
        pooled=pooled or ("pgbouncer", "true") in given,
        public=public,
    )


def _translate(parameter: tuple[str, str]) -> tuple[str, str]:
    """Translate other drivers' words for "encrypt" into libpq's. Without them the connection could be plain."""
    name, value = parameter
    if name == "ssl":  # SQLAlchemy's, with libpq's values, and node-postgres', true or false
        name, value = (
            "sslmode",
            {"true": "require", "1": "require", "false": "disable", "0": "disable"}.get(value, value),
        )
    return (name, "require") if (name, value) == ("sslmode", "no-verify") else (name, value)
