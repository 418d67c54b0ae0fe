"""Reload: watching the content of a real file, one read at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.config import ConfigError, Environment, Settings, load
from app.config.reload.watch import watch

FIRST = "channels: {first: {}}\n"
SECOND = "channels: {second: {}}\n"
BROKEN = "channels: {broken: {publish: maybe}}\n"

Configure = Callable[..., Environment]


class Watcher:
    """A watch whose reads happen when the test says so."""

    def __init__(self, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = environment.channels_config
        self.outcomes: asyncio.Queue[Settings | ConfigError] = asyncio.Queue()
        self.intervals: set[float] = set()
        self._ticks: asyncio.Queue[None] = asyncio.Queue()
        self._waiting = asyncio.Event()
        monkeypatch.setattr("app.config.reload.watch.sleep", self._sleep)
        in_use = load(environment)
        self._stream = watch(environment, in_use.digest, in_use.schemas, interval=0.25)

    async def _sleep(self, interval: float) -> None:
        self.intervals.add(interval)
        self._waiting.set()
        await self._ticks.get()

    async def run(self) -> None:
        """Collect what the watch yields."""
        async for outcome in self._stream:
            self.outcomes.put_nowait(outcome)

    async def read(self, times: int = 1) -> list[Settings | ConfigError]:
        """Let the watch read the file so many times; return what it yielded."""
        for _ in range(times):
            await self._waiting.wait()
            self._waiting.clear()
            self._ticks.put_nowait(None)
        await self._waiting.wait()
        return [self.outcomes.get_nowait() for _ in range(self.outcomes.qsize())]

    async def names(self) -> list[str]:
        """Return the channels that two more reads yield."""
        return [c.name for s in await self.read(2) if isinstance(s, Settings) for c in s.registry.channels]


@asynccontextmanager
async def watching(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watcher]:
    """Watch the environment's file for the length of a test."""
    watcher = Watcher(environment, monkeypatch)
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def watcher(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Watcher, None]:
    """Watch a file that holds FIRST, which is in use."""
    async with watching(configure(FIRST), monkeypatch) as watcher:
        yield watcher


async def test_unchanged_content_yields_nothing(watcher: Watcher) -> None:
    """Watch yields nothing while the content stays, however often it reads, at the interval that was asked for."""
    assert await watcher.read(5) == []
    assert watcher.intervals == {0.25}


async def test_a_rewrite_yields_settings_once_two_reads_agree(watcher: Watcher) -> None:
    """Watch yields the settings of a file that was rewritten in place, once two reads agree."""
    watcher.path.write_text(SECOND)
    assert await watcher.read(1) == []
    assert [type(outcome) for outcome in await watcher.read(1)] == [Settings]
    assert await watcher.read(3) == []


async def test_a_truncated_file_is_not_taken_for_empty(watcher: Watcher) -> None:
    """Watch does not take a file for empty when an editor truncates it first."""
    watcher.path.write_text("")
    assert await watcher.read(1) == []
    watcher.path.write_text(SECOND)
    assert await watcher.names() == ["second"]


async def test_watch_waits_while_a_file_is_written_in_pieces(watcher: Watcher) -> None:
    """Watch waits while every read finds something else."""
    for end in range(0, len(SECOND), 3):
        watcher.path.write_text(SECOND[:end])
        assert await watcher.read(1) == []
    watcher.path.write_text(SECOND)
    assert await watcher.names() == ["second"]


async def test_a_file_renamed_over_the_old_one_is_seen(watcher: Watcher, tmp_path: Path) -> None:
    """Watch sees a file that was renamed over the old one."""
    new = tmp_path / "new"
    new.write_text(SECOND)
    new.rename(watcher.path)
    assert await watcher.names() == ["second"]


async def test_a_folder_swapped_behind_a_symlink_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch sees a folder swapped behind a symlink, as Kubernetes does it."""
    for folder, text in (("one", FIRST), ("two", SECOND)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "channels.yaml").write_text(text)
    (tmp_path / "data").symlink_to("one")
    environment = Environment.read({"CHANNELS_CONFIG": str(tmp_path / "data" / "channels.yaml")})
    async with watching(environment, monkeypatch) as watcher:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "data")
        assert await watcher.names() == ["second"]


async def test_deletion_is_reported_once_and_ends_with_the_file(watcher: Watcher) -> None:
    """Watch reports once that the file vanished, and yields the settings again when it is back."""
    watcher.path.unlink()
    (error,) = await watcher.read(2)
    assert "cannot be read" in str(error)
    assert await watcher.read(3) == []
    watcher.path.write_text(FIRST)
    assert await watcher.names() == ["first"]


async def test_a_file_that_is_missing_for_one_read_changes_nothing(watcher: Watcher) -> None:
    """Watch does not mind a file that is missing for one read."""
    watcher.path.unlink()
    assert await watcher.read(1) == []
    watcher.path.write_text(FIRST)
    assert await watcher.read(3) == []


async def test_a_broken_edit_is_reported_once_with_its_line(watcher: Watcher) -> None:
    """Watch yields the error of a broken edit once, with its line."""
    watcher.path.write_text(BROKEN)
    (error,) = await watcher.read(2)
    assert f"{watcher.path}:1:30: channels.broken.publish: write anyone" in str(error)
    assert await watcher.read(3) == []


async def test_a_broken_edit_that_is_put_back_yields_settings_again(watcher: Watcher) -> None:
    """Watch yields the earlier settings again when a broken edit is put back, so that the error can be cleared."""
    watcher.path.write_text(BROKEN)
    await watcher.read(2)
    watcher.path.write_text(FIRST)
    assert await watcher.names() == ["first"]


async def test_two_broken_edits_are_two_errors(watcher: Watcher) -> None:
    """Watch yields an error for each broken content."""
    for text in (BROKEN, BROKEN + "more: 1\n"):
        watcher.path.write_text(text)
        assert [type(outcome) for outcome in await watcher.read(2)] == [ConfigError]


class Schemas:
    """A watch of a file that names a schema file, which is in use."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.path = watcher.path.parent / "order.json"

    async def outcome(self) -> str:
        """Return what two more reads yield: the schema's content, an error's text, or nothing."""
        outcomes = await self.watcher.read(2)
        if not outcomes:
            return "nothing"
        (outcome,) = outcomes
        if isinstance(outcome, ConfigError):
            return str(outcome)
        schema = outcome.registry.find("orders").schema
        return "no schema" if schema is None else str(schema.document)


@pytest.fixture
async def schemas(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Schemas, None]:
    """Watch a file that names a schema file."""
    environment = configure("channels: {orders: {schema: order.json}}\n")
    (environment.channels_config.parent / "order.json").write_text("true")
    async with watching(environment, monkeypatch) as watcher:
        yield Schemas(watcher)


async def test_a_changed_schema_file_yields_settings(schemas: Schemas) -> None:
    """Watch yields the settings again when a schema file has changed, once, and once two reads agree."""
    assert await schemas.outcome() == "nothing"
    schemas.path.write_text("")
    assert await schemas.watcher.read(1) == []
    schemas.path.write_text("{}")
    assert await schemas.outcome() == "{}"
    assert await schemas.outcome() == "nothing"


async def test_a_schema_file_that_breaks_is_reported_until_it_is_whole(schemas: Schemas) -> None:
    """Watch reports each way in which a schema file breaks, with the line of the key, and its return."""
    schemas.path.write_text("{")
    assert f'{schemas.watcher.path}:1:29: channels.orders.schema: "order.json" cannot be' in await schemas.outcome()
    schemas.path.unlink()
    assert "No such file" in await schemas.outcome()
    assert await schemas.outcome() == "nothing"
    schemas.path.write_text("true")
    assert await schemas.outcome() == "True"


async def test_the_schema_files_that_are_named_now_are_watched(schemas: Schemas) -> None:
    """Watch looks at the schema file that the file names now, and no longer at the one before."""
    other = schemas.path.parent / "other.json"
    schemas.watcher.path.write_text("channels: {orders: {schema: other.json}}\n")
    assert '"other.json" cannot be read' in await schemas.outcome()
    other.write_text("{}")
    assert await schemas.outcome() == "{}"
    schemas.path.write_text("{")
    assert await schemas.outcome() == "nothing"
    schemas.watcher.path.write_text("channels: {orders: }\n")
    assert await schemas.outcome() == "no schema"
    other.write_text("{")
    assert await schemas.outcome() == "nothing"


async def test_a_schema_file_behind_a_swapped_symlink_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch sees both files change when Kubernetes swaps the folder behind the links of a ConfigMap."""
    for version, schema in (("..1", "true"), ("..2", "{}")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "channels.yaml").write_text("channels: {orders: {schema: order.json}}\n")
        (tmp_path / version / "order.json").write_text(schema)
    (tmp_path / "..data").symlink_to("..1")
    for name in ("channels.yaml", "order.json"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    environment = Environment.read({"CHANNELS_CONFIG": str(tmp_path / "channels.yaml")})
    async with watching(environment, monkeypatch) as watcher:
        (tmp_path / "..next").symlink_to("..2")
        (tmp_path / "..next").rename(tmp_path / "..data")
        assert await Schemas(watcher).outcome() == "{}"


async def test_watch_works_by_the_clock_too(configure: Configure) -> None:
    """Watch works by the clock too."""
    environment = configure(FIRST)
    stream = watch(environment, load(environment).digest, interval=0.001)
    environment.channels_config.write_text(SECOND)
    outcome = await asyncio.wait_for(anext(stream), 10)
    assert isinstance(outcome, Settings)
    await stream.aclose()
