"""Database URLs as hosts hand them out."""

from dataclasses import dataclass

import pytest
from asyncpg import connect_utils

from app.bus.postgres.sessions.dsn import parse

SECRET = "s3cr%2Ft"


@dataclass(frozen=True)
class Asked:
    """What asyncpg makes of a URL."""

    address: tuple[str, int] | str
    user: str
    password: str | None
    database: str
    sslmode: str
    settings: dict[str, str] | None


def asked(url: str) -> Asked:
    addresses, found, _ = connect_utils._parse_connect_arguments(  # type: ignore[attr-defined]  # noqa: SLF001 — it does not connect
        dsn=parse(url).url, host=None, port=None, user=None, password=None, passfile=None, database=None,
        command_timeout=None, statement_cache_size=100, max_cached_statement_lifetime=0, max_cacheable_statement_size=0,
        ssl=None, direct_tls=None, server_settings=None, target_session_attrs=None, krbsrvname=None, gsslib=None,
        service=None, servicefile=None,
    )  # fmt: skip
    return Asked(
        addresses[0], found.user, found.password, found.database, found.sslmode.name, found.server_settings or None
    )


TABLE = {
    "Heroku": (
        f"postgres://app:{SECRET}@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
        Asked(("ec2-1-2-3-4.compute-1.amazonaws.com", 5432), "app", "s3cr/t", "d1", "prefer", None),
    ),
    "SQLAlchemy": (
        f"postgresql+asyncpg://app:{SECRET}@db.internal/app?ssl=require&prepared_statement_cache_size=0",
        Asked(("db.internal", 5432), "app", "s3cr/t", "app", "require", None),
    ),
    "node-postgres": (
        f"postgres://app:{SECRET}@db.internal/app?ssl=true",
        Asked(("db.internal", 5432), "app", "s3cr/t", "app", "require", None),
    ),
    "a driver with an underscore": (
        f"POSTGRESQL+psycopg_async://app:{SECRET}@db.internal/app",
        Asked(("db.internal", 5432), "app", "s3cr/t", "app", "prefer", None),
    ),
    "Neon": (
        f"postgresql://app:{SECRET}@ep-1-pooler.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
        Asked(
            ("ep-1-pooler.aws.neon.tech", 5432), "app", "s3cr/t", "neondb", "require", None
        ),
    ),
    "Neon without SNI": (
        f"postgresql://app:{SECRET}@ep-1.aws.neon.tech/neondb?sslmode=require&options=endpoint%3Dep-1",
        Asked(
            ("ep-1.aws.neon.tech", 5432), "app", "s3cr/t", "neondb", "require",
            {"options": "endpoint=ep-1"},
        ),
    ),
    "Supabase": (
        f"postgres://postgres.ref:{SECRET}@aws-0.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1",
        Asked(
            ("aws-0.pooler.supabase.com", 6543), "postgres.ref", "s3cr/t", "postgres", "prefer", None
        ),
    ),
    "Fly": (
        f"postgres://app:{SECRET}@app-db.flycast:5432/app?sslmode=disable",
        Asked(("app-db.flycast", 5432), "app", "s3cr/t", "app", "disable", None),
    ),
    "a Unix socket": (
        f"postgresql://app:{SECRET}@/app?host=/var/run/postgresql",
        Asked("/var/run/postgresql/.s.PGSQL.5432", "app", "s3cr/t", "app", "disable", None),
    ),
    "Heroku Node": (
        f"postgres://app:{SECRET}@db.internal/app?sslmode=no-verify",
        Asked(("db.internal", 5432), "app", "s3cr/t", "app", "require", None),
    ),
    "the search path in options": (
        f"postgres://app:{SECRET}@db.internal/app?options=-c%20search_path%3Da%2Cb&application_name=x&connect_timeout=9",
        Asked(("db.internal", 5432), "app", "s3cr/t", "app", "prefer", {"options": "-c search_path=a,b"}),
    ),
    "a password as parameter": (
        f"postgres://db.internal/app?user=app&password={SECRET}",
        Asked(("db.internal", 5432), "app", "s3cr/t", "app", "prefer", None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("host", TABLE)
def test_hosts_spellings_lead_to_the_same_database(host: str) -> None:
    """URL of a host reaches asyncpg with its address, user, password, database, encryption and options."""
    url, expected = TABLE[host]
    assert asked(url) == expected


@pytest.mark.parametrize("host", TABLE)
def test_the_password_is_shown_nowhere(host: str) -> None:
    """Dsn names neither user nor password in what may be logged."""
    dsn = parse(TABLE[host][0])
    for text in (dsn.place, repr(dsn), str(dsn)):
        assert "s3cr" not in text
        assert "app:" not in text


def test_a_pooler_is_known_by_its_parameter_or_by_the_other_url() -> None:
    """Dsn counts as pooled where the URL says so, or a direct URL stands beside it."""
    assert parse(TABLE["Supabase"][0]).pooled
    assert not parse(TABLE["Heroku"][0]).pooled
    assert parse(TABLE["Heroku"][0], pooled=True).pooled
