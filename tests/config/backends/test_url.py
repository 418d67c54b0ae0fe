"""The backend's URL."""

from __future__ import annotations

import re

import pytest

from app.config import mask
from app.config.backends.url import PATTERN, kind, refusal


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("memory://", "memory://"),
        ("postgres://db:5432/app", "postgres://db:5432/app"),
        ("postgres://me:hunter2@db/app", "postgres://***@db/app"),
        ("postgres://me:hun/ter2@db/app", "postgres://***@db/app"),
        ("postgres://me:hun#ter2@db/app", "postgres://***@db/app"),
        ("postgres://me:hun?ter2@db/app", "postgres://***@db/app"),
        ("postgres://me:hunter@2@db/app", "postgres://***@db/app"),
        ("redis://h/0?password=hunter2", "redis://h/0?***"),
        ("redis://h/0#hunter2", "redis://h/0?***"),
    ],
)
def test_a_masked_url_shows_host_and_path_only(url: str, masked: str) -> None:
    """Mask hides user, password and parameters, and leaves host and path."""
    assert mask(url) == masked


@pytest.mark.parametrize(
    "url",
    [
        "postgres://me:hunter2@db.example:5432/app",
        "postgresql://db",
        "postgresql+asyncpg://me:hunter2@db/app",
        "postgres+psycopg2://db/app",
        "postgresql+psycopg_async://db/app",
        "POSTGRES://db/app",
        "postgres://",
        "postgres:///app",
        "postgres:///app?host=/var/run/postgresql&port=5432",
        "postgres://me@%2Fvar%2Frun%2Fpostgresql/app",
        "postgres://me:hunter%402%2F%23%3F@db/app",
        "postgres://me:hunter2@[::1]:5432/app",
        "postgres://a:5432,b:5433/app?target_session_attrs=read-write",
        "postgres://me@db/app?sslmode=require&channel_binding=require&options=&user=me@db",
    ],
)
def test_hosted_postgres_urls_are_taken_in_every_spelling(url: str) -> None:
    """Loader takes the Postgres URLs that hosts hand out, in every spelling."""
    assert refusal(url) is None
    assert kind(url) == "postgres"
    assert re.match(PATTERN, url.lower())


@pytest.mark.parametrize(
    ("url", "fragment"),
    [
        ("postgres://me:hunter2@db:port/app", "host or port"),
        ("postgres://me:hunter2@db:0/app", "host or port"),
        ("postgres://me:hunter2@db:65536/app", "host or port"),
        ("postgres://me:hunter2@db:/app", "host or port"),
        ("postgres://a:5432,hunter2:x/app", "host or port"),
        ("postgres:///app?host=hunter2&port=x", "host or port"),
        ("postgres://me:hun/ter2@db/app", "%2F"),
        ("postgres://me:123/4@db/app", "%2F"),
        ("postgres://me:hun#ter2@db/app", "%23"),
        ("postgres://me:hunter@2@db/app", "%40"),
        ("postgres://me:12?hunter2@db/app", "cannot be parsed"),
        ("postgres://me:hunter2@db/app?sslmode", "cannot be parsed"),
        ("postgres://me:hunter2@[::1/app", "cannot be parsed"),
        ("postgres://me:hunter2@[hunter2]:5432/app", ""),
        ("postgres://me:hunter2@db/app\n", "a line break"),
        ("postgres://me:hunter 2@db/app", "a space"),
    ],
)
def test_a_wrong_postgres_url_is_explained_without_being_shown(url: str, fragment: str) -> None:
    """Loader says what is wrong with a Postgres URL without showing it."""
    message = refusal(url)
    assert message is not None
    assert fragment in message
    assert "hunter" not in message
