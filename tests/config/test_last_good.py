"""What a server keeps of a file that was good."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.config import LAST_GOOD, ConfigError, Environment, load
from app.config.last_good import HEADER, LastGood

GOOD = "channels: {good: {}}\n"
BROKEN = "channels: {broken: {publish: maybe}}\n"

Configure = Callable[..., Environment]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> LastGood:
    """Share what is kept, for the length of a test."""
    monkeypatch.setattr(LAST_GOOD, "_memory", None)
    LAST_GOOD.share()
    return LAST_GOOD


def names(environment: Environment) -> list[str]:
    return [channel.name for channel in load(environment).registry.channels]


def test_a_broken_file_is_what_it_was_to_a_server_that_has_served(configure: Configure, shared: LastGood) -> None:
    """Loader takes the content that was good when the file is broken or gone, and the file again when it is mended."""
    environment = configure(GOOD)
    shared.share()
    assert names(environment) == ["good"]
    configure(BROKEN)
    assert names(environment) == ["good"]
    environment.channels_config.unlink()
    assert names(environment) == ["good"]
    configure("channels: {mended: {}}\n")
    assert names(environment) == ["mended"]
    configure(BROKEN)
    assert names(environment) == ["mended"]


@pytest.mark.usefixtures("shared")
def test_a_schema_is_what_it_was_to_a_server_that_has_served(configure: Configure) -> None:
    """Loader takes the schema that was good when its file is broken or gone, and the new one when it is good again."""
    environment = configure("channels: {orders: {schema: schemas/order.json}}\n")
    file = environment.channels_config.parent / "schemas" / "order.json"
    file.parent.mkdir()

    def accepts() -> list[bool]:
        schema = load(environment).registry.find("orders").schema
        assert schema is not None
        return [schema.misfit(message) is None for message in (b"1", b'"a"')]

    file.write_text('{"type": "integer"}')
    assert accepts() == [True, False]
    file.write_text('{"type": "intege')
    assert accepts() == [True, False]
    file.unlink()
    assert accepts() == [True, False]
    file.write_text('{"type": "string"}')
    assert accepts() == [False, True]


@pytest.mark.usefixtures("shared")
def test_a_file_that_is_broken_at_the_start_is_refused(configure: Configure) -> None:
    """Loader has nothing else to take before the file has been good once."""
    with pytest.raises(ConfigError):
        load(configure(BROKEN))


def test_nothing_is_kept_unless_it_is_shared(configure: Configure) -> None:
    """Loader of a command, which has no workers, says what is wrong each time."""
    assert names(configure(GOOD)) == ["good"]
    with pytest.raises(ConfigError):
        load(configure(BROKEN))


def test_half_of_two_contents_is_none_of_them(shared: LastGood, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content that two processes wrote into each other is not taken for either's."""
    memory = bytearray(1000)
    monkeypatch.setattr(shared, "_memory", memory)
    assert shared.recall() is None
    shared.keep(b"one", {"order.json": b"true"})
    assert shared.recall() == (b"one", {"order.json": b"true"})
    memory[HEADER.size] ^= 1
    assert shared.recall() is None
