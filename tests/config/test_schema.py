"""The JSON Schema for editors, and the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from app.config import json_schema
from app.config.environment import Environment

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema()
VARIABLES = [
    "HOST",
    "PORT",
    "METRICS_PORT",
    "CHANNELS_CONFIG",
    "DATABASE_URL",
    "DIRECT_DATABASE_URL",
    "PUSH_KEYS",
    "WEB_CONCURRENCY",
    "DRAIN_SECONDS",
    "MAX_CONNECTION_AGE",
    "ROOT_PATH",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
]


def keys() -> dict[str, Any]:
    """Return every key of the file with its schema, by the section and its own name."""
    sections = {"": SCHEMA, **SCHEMA["$defs"]}
    return {f"{name}.{key}": value for name, part in sections.items() for key, value in part["properties"].items()}


def test_the_committed_schema_is_what_the_command_writes() -> None:
    """Committed schema is what `bin/abide schema > config/channels.schema.json` writes."""
    text = (ROOT / "config" / "channels.schema.json").read_text(encoding="utf-8")
    assert text == json.dumps(SCHEMA, indent=2) + "\n"


def test_the_schema_is_a_valid_json_schema() -> None:
    """Schema is itself a valid JSON Schema."""
    jsonschema_rs.meta.validate(SCHEMA)


def test_the_schema_takes_the_shipped_file() -> None:
    """Schema takes the shipped file, its variables included."""
    shipped = yaml.safe_load((ROOT / "config" / "channels.yaml").read_text(encoding="utf-8"))
    jsonschema_rs.validate(SCHEMA, shipped)


@pytest.mark.parametrize(
    "text",
    [
        "channels: {a: , 'b.{x}': {}, 'b.{x}.c': {}}",
        "defaults:\nauth:\nchannels: {a: {history: , schema: null, rate_limit: null, presence: false}}",
        "origins: ['${O}', 'https://a:1']\nchannels: {a: {publish: '${P}', client_publish: '${C}'}}",
        "auth: {keys: [abcdefgh, '', '${K}'], tokens: {secret: '${S:-}'}}\nchannels: {a: {max_message_size: 1MiB}}",
        "limits: {bodies: '${B}', frames: 5, connections_per_address: }\nchannels: {a: {rate_limit: 10/s}}",
        "limits:\nchannels: {a: {rate_limit: {per_identity: 600/m, per_channel: '${R}', burst: 9}}, b: {rate_limit: }}",
        "channels: {a: {history: {size: 10, ttl: 60}, max_message_size: 5}, b: {history: {ttl: 7d}}}",
    ],
)
def test_the_schema_takes_what_the_loader_takes(text: str) -> None:
    """Schema takes what the loader takes."""
    jsonschema_rs.validate(SCHEMA, yaml.safe_load(text))


@pytest.mark.parametrize(("name", "schema"), keys().items())
def test_every_key_is_described_in_the_schema(name: str, schema: dict[str, Any]) -> None:
    """Schema describes every key."""
    target = SCHEMA["$defs"].get(schema.get("$ref", "").rpartition("/")[2], {})
    assert schema.get("description") or target.get("description"), name


@pytest.mark.parametrize("name", sorted({name.rpartition(".")[2] for name in keys()}))
def test_every_key_is_named_in_the_documentation(name: str) -> None:
    """Documentation names every key of the file."""
    assert f"`{name}`" in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_is_named_in_the_documentation(name: str) -> None:
    """Documentation names every environment variable."""
    assert f"`{name}`" in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_variables_are_all_listed() -> None:
    """List of variables above holds every one that the server reads."""

    class Recorder(dict[str, str]):
        """An empty environment that remembers what it was asked for."""

        def __missing__(self, key: str) -> str:
            """Note the name."""
            asked.add(key)
            return ""

        get = dict.__getitem__  # type: ignore[assignment]

    asked: set[str] = set()
    Environment.read(Recorder())
    assert asked == set(VARIABLES) - {"DATABASE_URL", "PUSH_KEYS"}
