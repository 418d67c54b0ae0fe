"""What a reload has changed."""

from __future__ import annotations

from pathlib import Path

from app.config.environment import Environment
from app.config.load import parse
from app.config.reload.differences import Differences, differences
from app.config.schemas.files import SchemaFiles
from app.config.settings import Settings

ENVIRONMENT = Environment(channels_config=Path("channels.yaml"))


def compare(before: str, after: str) -> Differences:
    return differences(parse(before.encode(), ENVIRONMENT), parse(after.encode(), ENVIRONMENT))


def test_each_key_is_named_with_its_old_and_its_new_value() -> None:
    """Differences name the channels and keys that changed, in the file's own words."""
    found = compare(
        "channels: {a: {publish: anyone}, b: , c: }",
        "channels: {a: {history: {size: 5, ttl: 90}, max_message_size: 1MiB, client_publish: true}, b: , 'd.{x}': }",
    )
    assert found == Differences(
        ["d.{x}"],
        ["c"],
        [
            "channels.a.publish: anyone -> key",
            "channels.a.client_publish: false -> true",
            "channels.a.history.size: 1000 -> 5",
            "channels.a.history.ttl: 1d -> 90s",
            "channels.a.max_message_size: 64KiB -> 1MiB",
        ],
    )


def test_a_changed_schema_is_named_with_a_hash_of_its_content() -> None:
    """Differences name the file of a schema, and tell its contents apart."""

    def orders(content: bytes) -> Settings:
        files = SchemaFiles(Path(), {"order.json": content})
        return parse(b"channels: {orders: {schema: order.json}}", ENVIRONMENT, files)

    before, after = orders(b"true"), orders(b"{}")
    assert before.digest != after.digest
    assert differences(before, orders(b"true")).changed == []
    assert differences(before, after).changed == [
        "channels.orders.schema: order.json (b5bea41b6c62) -> order.json (44136fa355b3)"
    ]
    assert compare("channels: {orders: }", "channels: {orders: {schema: ''}}").changed == []


def test_what_is_not_a_channels_is_named_and_no_secret_is_shown() -> None:
    """Differences name origins, operators, console, keys and backend, without a key or a password."""
    found = compare(
        "auth: {keys: [first-key-1, second-key-2]}\nchannels: {a: }",
        "backend: postgres://u:secret@db/x\nauth: {keys: [second-key-2, third-key-3]}\n"
        "origins: ['https://a.example']\noperators: key\nconsole: false\nchannels: {a: }",
    )
    assert found.changed == [
        "backend: memory:// -> postgres://***@db/x",
        "origins: * -> https://a.example",
        "operators: left out -> key",
        "console: true -> false",
        "auth.keys: 2 -> 2 (1 added, 1 removed)",
    ]


def test_limits_are_named_as_the_file_writes_them() -> None:
    """Differences name each limit and each rate limit, in the file's own words."""
    found = compare(
        "channels: {a: {rate_limit: 10/s}, b: , c: {rate_limit: 600/m}}",
        "limits: {connections: 5, connections_per_address: 2, bodies: 32MiB, request_time: 120}\n"
        "channels: {a: , b: {rate_limit: {per_channel: 5/s}}, "
        "c: {rate_limit: {per_identity: 10/s, per_channel: 1/m, burst: 20}}}",
    )
    assert found.changed == [
        "limits.connections: 100000 -> 5",
        "limits.connections_per_address: none -> 2",
        "limits.bodies: 64MiB -> 32MiB",
        "limits.request_time: 1m -> 2m",
        "channels.a.rate_limit: 10/s -> none",
        "channels.b.rate_limit: none -> {per_channel: 5/s}",
        "channels.c.rate_limit: 600/m -> {per_identity: 10/s, per_channel: 1/m, burst: 20}",
    ]


def test_what_channels_inherit_is_named_once() -> None:
    """Differences name a changed default, and of the channels only those that changed otherwise."""
    found = compare(
        "defaults: {publish: anyone}\nchannels: {a: , b: {publish: nobody}}",
        "defaults: {publish: key}\nchannels: {a: , b: {publish: operators}}",
    )
    assert found.changed == ["defaults.publish: anyone -> key", "channels.b.publish: nobody -> operators"]


def test_thousands_of_differences_are_told_briefly() -> None:
    """Differences show the first ten, and how many more there are."""
    channels = "".join(f"c{number}: {{history: {{size: 1}}}}, " for number in range(300))
    found = compare(f"channels: {{{channels}}}", f"channels: {{{channels.replace('size: 1', 'size: 2')}}}")
    assert found.changed[0] == "channels.c0.history.size: 1 -> 2"
    assert found.changed[10:] == ["and 290 more"]
