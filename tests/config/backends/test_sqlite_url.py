"""URLs of a SQLite file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.config.backends import sqlite
from app.config.backends.url import PATTERN, kind, refusal


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///abide.db", Path.cwd() / "abide.db"),
        ("sqlite:///data/abide.db", Path.cwd() / "data/abide.db"),
        ("sqlite:////data/abide.db", Path("/data/abide.db")),
        ("SQLite:////data/my log/a%20b.db", Path("/data/my log/a%20b.db")),
    ],
)
def test_three_slashes_are_relative_and_four_absolute(url: str, path: Path) -> None:
    """Path of the URL is relative to the working directory, or absolute, and taken as it is written."""
    assert refusal(url) is None
    assert kind(url) == "sqlite"
    assert re.search(PATTERN, url)
    assert sqlite.path(url) == path


def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    """Path of a link is that of its file, so that workers which name it differently share one log and its sockets."""
    file, link = tmp_path / "abide.db", tmp_path / "link.db"
    link.symlink_to(file)
    assert sqlite.path(f"sqlite:///{link}") == file


@pytest.mark.parametrize(
    ("url", "fragment"),
    [
        ("sqlite://abide.db", "two slashes"),
        ("sqlite://data/abide.db", "two slashes"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///data/", "names no file"),
        ("sqlite:///:memory:", "write memory://"),
        ("sqlite://:memory:", "write memory://"),
        ("sqlite:///abide.db?mode=ro", "there are no options"),
        ("sqlite:///abide.db#x", "there are no options"),
        ("sqlite+aiosqlite:///abide.db", "names a driver"),
        ("sqlite:abide.db", "must be a URL that starts with"),
        ("sqlite3:///abide.db", "did you mean sqlite?"),
    ],
)
def test_another_form_is_refused_with_what_to_write(url: str, fragment: str) -> None:
    """Loader and editors refuse a URL that names no file, and the loader says what to write."""
    message = refusal(url)
    assert message is not None
    assert fragment in message
    assert "sqlite://" in message
    assert not re.search(PATTERN, url)
