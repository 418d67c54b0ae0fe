"""Configuration files for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import ConfigError, Diagnostic, Environment, Settings, load

MARK = "‸"
"""Stands in a test's YAML where the problem is expected to point."""

Configure = Callable[..., Environment]
Load = Callable[..., Settings]
Problems = Callable[..., tuple[Diagnostic, ...]]


@pytest.fixture
def anyio_backend() -> str:
    """Run the asynchronous tests on asyncio, as the server runs."""
    return "asyncio"


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Write a file and return the environment that names it."""

    def write(content: str | bytes, **variables: str) -> Environment:
        path = tmp_path / "channels.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Environment.read({"CHANNELS_CONFIG": str(path), **variables})

    return write


@pytest.fixture
def load_text(configure: Configure) -> Load:
    """Write a file and load it."""
    return lambda content, **variables: load(configure(content, **variables))


@pytest.fixture
def problems(configure: Configure) -> Problems:
    """Write a file, load it, and return what is wrong with it."""

    def refused(content: str | bytes, **variables: str) -> tuple[Diagnostic, ...]:
        with pytest.raises(ConfigError) as caught:
            load(configure(content, **variables))
        return caught.value.diagnostics

    return refused


@pytest.fixture
def expected() -> Callable[[str], tuple[str, tuple[int, int]]]:
    """Split a text with a mark into the text without it and the mark's line and column."""

    def split(marked: str) -> tuple[str, tuple[int, int]]:
        before, mark, after = marked.partition(MARK)
        assert mark, "this text has no mark"
        return before + after, (before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)

    return split
