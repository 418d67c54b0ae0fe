"""The backend's URL."""

from __future__ import annotations

import pytest

from app.config import mask


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
def test_mask(url: str, masked: str) -> None:
    """Mask hides user, password and parameters, and leaves host and path."""
    assert mask(url) == masked
