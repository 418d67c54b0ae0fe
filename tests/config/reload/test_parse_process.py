"""Parsing in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.config.diagnostics import ConfigError
from app.config.environment import Environment
from app.config.load import parse
from app.config.reload.parse_process import parse_in_process
from app.config.schemas.files import SchemaFiles

ENVIRONMENT = Environment(channels_config=Path("channels.yaml"), variables={"K": "abcdefgh"})
FAMILIES = "".join(f"  'f{number}.{{x}}': {{publish: key}}\n" for number in range(250))


def files() -> SchemaFiles:
    return SchemaFiles(Path(), {"order.json": b'{"type": "integer"}', "other.json": b"{"})


def test_schemas_come_from_another_process_with_what_was_read_of_them() -> None:
    """Another process returns the schemas of channels, and the content of each file that they name."""
    content = b"channels: {a: {schema: order.json}, b: {schema: order.json}, c: }"
    given = files()
    channels = {channel.name: channel for channel in parse_in_process(content, ENVIRONMENT, given).registry.channels}
    assert given.contents == {"order.json": b'{"type": "integer"}'}
    assert channels["a"].schema == channels["b"].schema
    assert channels["a"].schema is not None
    assert channels["a"].schema.misfit(b'"x"') is not None
    assert channels["a"].schema.misfit(b"1") is None
    broken = files()
    with pytest.raises(ConfigError, match=r"channels\.a\.schema: \"other\.json\" cannot be used: not JSON"):
        parse_in_process(b"channels: {a: {schema: other.json}}", ENVIRONMENT, broken)
    assert list(broken.contents) == ["other.json"]


def test_settings_are_the_same_from_another_process() -> None:
    """Another process returns what this one would, all channels and warnings included."""
    content = f"auth: {{keys: '${{K}}'}}\ndefaults: {{history: {{size: 5}}}}\nchannels:\n  a:\n{FAMILIES}".encode()
    here, there = parse(content, ENVIRONMENT), parse_in_process(content, ENVIRONMENT, files())
    assert there.registry.channels == here.registry.channels
    assert there.registry.defaults == here.registry.defaults
    assert there.registry.find("f7.lobby") == here.registry.find("f7.lobby")
    assert (there.auth.keys, there.digest, there.warnings) == (here.auth.keys, here.digest, here.warnings)


def test_problems_come_from_another_process_in_part() -> None:
    """Another process returns the first problems, and how many more there are."""
    content = f"channels:\n{FAMILIES.replace('key', 'kee')}".encode()
    with pytest.raises(ConfigError) as here:
        parse(content, ENVIRONMENT)
    with pytest.raises(ConfigError) as there:
        parse_in_process(content, ENVIRONMENT, files())
    assert there.value.summary() == here.value.summary()
    assert there.value.more == 240


def test_a_process_that_ends_too_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parser says that it could not be asked where its process does not answer."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(OSError, match=r"ended without an answer|Broken pipe"):
        parse_in_process(b"channels: {a: }", ENVIRONMENT, files())
