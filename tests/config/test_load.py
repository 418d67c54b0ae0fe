"""What valid files mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.config import BackendSettings, ConfigError, Environment, Settings, check_deployment, load
from app.core.channel import Channel, HistoryWindow
from app.core.rights.policy import ANYONE, Access, Policy

Load = Callable[..., Settings]
Configure = Callable[..., Environment]

SHIPPED = Path(__file__).parents[2] / "config" / "channels.yaml"


def channel(settings: Settings, name: str) -> Channel:
    """Return the channel that the file declares under this name."""
    return next(c for c in settings.registry.channels if c.name == name)


def test_the_shipped_file_serves_four_channels_from_memory() -> None:
    """Shipped file serves four channels from memory, and its defaults are the code's own."""
    loaded = load(Environment.read({"CHANNELS_CONFIG": str(SHIPPED)}))
    assert [c.name for c in loaded.registry.channels] == ["lebowski", "events", "orders", "chat.{room}"]
    assert channel(loaded, "orders") == Channel("orders")
    assert channel(loaded, "lebowski") == Channel("lebowski", publish=Policy((Access.OPERATORS,)))
    assert channel(loaded, "events") == Channel("events", publish=Policy((Access.OPERATORS,)), client_publish=True)
    assert loaded.registry.find("chat.a").publish == Policy((Access.KEY,))
    assert (loaded.backend.url, loaded.auth.keys, loaded.origins) == ("memory://", (), ("*",))
    assert loaded.operators is None


def test_the_smallest_file_names_one_channel(load_text: Load) -> None:
    """File needs nothing but a channel's name."""
    assert load_text("channels:\n  a:\n").registry.channels == (Channel("a"),)


@pytest.mark.parametrize(
    "text",
    [
        "channels: {a: {schema: null, presence: false, rate_limit: null}}",
        "channels: {a: {schema: ''}}",
        "auth: {tokens: {secret: '', jwks: null, issuer: '', audience: ''}}\nchannels: {a: }",
        "auth: {keys: '${NONE:-}', tokens: {secret: '${NONE:-}'}}\nchannels: {a: {history: }}",
        "auth: {keys: null, tokens: }\nchannels: {a: {}}",
        "auth: {keys: [null, '']}\ndefaults:\nchannels: {a: {slow_subscriber: catch_up}}",
        "backend: memory://\nauth:\norigins: ['*']\nchannels: {a: {subscribe: anyone, publish: key}}",
    ],
)
def test_every_key_can_be_set_to_its_off_value(load_text: Load, text: str) -> None:
    """Loader takes every key at its default or off value, and empty secrets and sections."""
    assert load_text(text).registry.channels == (Channel("a"),)


def test_channels_inherit_from_defaults_key_by_key(load_text: Load) -> None:
    """Channel inherits from the defaults key by key, and its history part by part."""
    loaded = load_text(
        "defaults: {publish: nobody, client_publish: true, max_message_size: 10, history: {size: 5, ttl: 1h}}\n"
        "channels:\n  a: {publish: anyone, history: {size: 0}}\n  b: {history: {ttl: 2d}, client_publish: false}\n"
    )
    inherited = Channel("a", ANYONE, client_publish=True, history=HistoryWindow(0, 3600), max_message_size=10)
    assert channel(loaded, "a") == inherited
    assert channel(loaded, "b") == replace(
        inherited, name="b", publish=Policy((Access.NOBODY,)), client_publish=False, history=HistoryWindow(5, 2 * 86400)
    )
    assert loaded.registry.history("elsewhere") == HistoryWindow(5, 3600)


def test_plain_aliases_are_followed(load_text: Load) -> None:
    """Loader follows plain aliases."""
    loaded = load_text("channels: {a: &open {publish: anyone}, b: *open}")
    assert channel(loaded, "b").publish == Policy((Access.ANYONE,))


@pytest.mark.parametrize(
    ("written", "size"),
    [("1", 1), ("500B", 500), ("64kB", 64000), ("64KiB", 65536), ("64 KiB", 65536), ("1MiB", 2**20)],
)
def test_sizes_have_decimal_and_binary_units(load_text: Load, written: str, size: int) -> None:
    """Loader reads sizes with decimal and binary units."""
    assert channel(load_text(f"channels: {{a: {{max_message_size: {written}}}}}"), "a").max_message_size == size


@pytest.mark.parametrize(
    ("written", "ttl"), [("90", 90), ("30s", 30), ("15m", 900), ("24h", 86400), ("7d", 604800), ("365d", 31536000)]
)
def test_durations_are_seconds_or_have_a_unit(load_text: Load, written: str, ttl: int) -> None:
    """Loader reads durations in seconds, or with a unit."""
    assert channel(load_text(f"channels: {{a: {{history: {{ttl: {written}}}}}}}"), "a").history.ttl == ttl


@pytest.mark.parametrize("name", ["'on'", '"42"', "'null'", "'1e3'", "'2026-01-02'", "news:eu", "a.b-c_d", "y"])
def test_any_name_of_allowed_characters_is_taken(load_text: Load, name: str) -> None:
    """Loader takes any name of the allowed characters, once it is quoted where YAML would misread it."""
    assert load_text(f"channels:\n  {name}: {{}}\n").registry.channels[0].name == name.strip("'\"")


def test_families_that_differ_by_more_than_a_parameter_coexist(load_text: Load) -> None:
    """Family takes a suffix, and families that differ by more than their parameter stand side by side."""
    loaded = load_text("channels: {'a.{x}': {}, 'a.{x}.log': {publish: anyone}, 'b.{x}': {}}")
    assert loaded.registry.find("a.1.log").publish == Policy((Access.ANYONE,))
    assert loaded.registry.find("a.1").publish == Policy((Access.KEY,))


def secrets(loaded: Settings) -> list[bytes]:
    """Return the texts of the keys."""
    return [key.secret for key in loaded.auth.keys]


def test_keys_are_a_text_or_a_list(load_text: Load) -> None:
    """Loader takes keys as a text with commas or as a list, and drops the empty ones."""
    expected = [b"first-key", b"second-key"]
    assert secrets(load_text("auth: {keys: 'first-key, second-key,'}\nchannels: {a: }")) == expected
    assert secrets(load_text("auth: {keys: [first-key, '', second-key]}\nchannels: {a: }")) == expected
    assert secrets(load_text("auth:\n  keys: ${K}\nchannels: {a: }", K="first-key,second-key")) == expected


def test_origins_are_written_as_browsers_send_them(load_text: Load) -> None:
    """Loader writes origins as browsers send them: in lower case, without the scheme's own port."""
    text = "origins: ['https://Example.com:443', 'http://[::1]:8080', 'http://a']\nchannels: {a: }"
    assert load_text(text).origins == ("https://example.com", "http://[::1]:8080", "http://a")
    text = "origins: ['https://a:0443', 'http://[0:0::0:1]:080', 'http://127.0.0.1:08', 'app://x']\nchannels: {a: }"
    assert load_text(text).origins == ("https://a", "http://[::1]", "http://127.0.0.1:8", "app://x")
    assert load_text("origins: []\nchannels: {a: }").origins == ()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("null", "null"),
        ("https://*.Example.com:443", "https://*.example.com"),
        ("http://*.localhost:3000", "http://*.localhost:3000"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://straße.example", "https://xn--strae-oqa.example"),
        ("https://*.bu\u0308cher.example", "https://*.xn--bcher-kva.example"),
        ("https://i❤.example", "https://xn--i-7iq.example"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_origins_of_every_kind_are_taken(load_text: Load, written: str, read: str) -> None:
    """Loader takes `null`, hosts below a name, and Unicode names, which it writes as a browser sends them."""
    assert load_text(f"origins: ['{written}']\nchannels: {{a: }}").origins == (read,)


@pytest.mark.parametrize(
    ("written", "read"),
    [("", None), ("operators:", None), ("operators: key", Access.KEY), ("operators: '${O:-anyone}'", Access.ANYONE)],
)
def test_the_file_says_who_is_an_operator(load_text: Load, written: str, read: Access | None) -> None:
    """File says who is an operator, or leaves it to where they are."""
    assert load_text(f"{written}\nchannels: {{a: }}").operators is read


@pytest.mark.parametrize(
    ("written", "variables", "read"),
    [
        ("${O}", {"O": "http://a"}, "http://a"),
        ("http://${O}.b", {"O": "a"}, "http://a.b"),
        ("${O:-http://d}", {}, "http://d"),
        ("${O:-http://d}", {"O": ""}, "http://d"),
        ("${O:-http://d}", {"O": "http://a"}, "http://a"),
        ("${O}${P}", {"O": "http://", "P": "a"}, "http://a"),
    ],
)
def test_variables_are_replaced_inside_strings(
    load_text: Load, written: str, variables: dict[str, str], read: str
) -> None:
    """Loader replaces variables inside scalar strings, in quotes as well as without."""
    for text in (f"origins:\n- {written}\nchannels: {{a: }}", f"origins: ['{written}']\nchannels: {{a: }}"):
        assert load_text(text, **variables).origins == (read,)


def test_variables_give_numbers_and_booleans_too(load_text: Load) -> None:
    """Loader takes numbers and booleans out of variables too."""
    policy = "  client_publish: ${YES}\n  max_message_size: ${SIZE}\n  history:\n    size: ${SIZE}\n"
    read = channel(load_text(f"defaults:\n{policy}channels: {{a: }}", YES="true", SIZE="12"), "a")
    assert (read.client_publish, read.max_message_size, read.history.size) == (True, 12, 12)


def test_interpolation_is_not_repeated(load_text: Load) -> None:
    """Loader does not look again at what a variable held, neither for YAML nor for other variables."""
    loaded = load_text("auth:\n  keys: ${K}\nchannels: {a: }", K="${HOME}:x,'{[&*#!key")
    assert secrets(loaded) == [b"${HOME}:x", b"'{[&*#!key"]


def test_an_escaped_reference_becomes_a_literal_one(load_text: Load) -> None:
    """Loader turns an escaped reference into a literal one."""
    assert secrets(load_text("auth:\n  keys: $${KEY}-literal$\nchannels: {a: }")) == [b"${KEY}-literal$"]


def test_keys_of_the_file_are_not_interpolated(configure: Configure) -> None:
    """Loader leaves the names in the file alone."""
    with pytest.raises(ConfigError, match=r"a name has no \"\$\""):
        load(configure("channels: {'${A}': {}}", A="news"))


@pytest.mark.parametrize(("written", "served"), [("", True), ("console: true", True), ("console: false", False)])
def test_the_file_turns_the_console_off(load_text: Load, written: str, *, served: bool) -> None:
    """File turns the console off, which is on by default."""
    assert load_text(f"{written}\nchannels: {{a: }}").console is served


def test_the_digest_belongs_to_the_content(load_text: Load) -> None:
    """Digest is the content's: the same for the same content, another for any other."""
    text = "channels: {a: {}}"
    assert load_text(text).digest == load_text(text, HOST="::").digest != load_text(text + "\n").digest


def test_a_byte_order_mark_is_ignored(load_text: Load) -> None:
    """Loader ignores a byte order mark."""
    assert load_text(b"\xef\xbb\xbfchannels: {a: {}}").registry.channels == (Channel("a"),)


LOSES = "memory:// is served to other machines (HOST={}): a stop loses all messages; set DATABASE_URL to keep them"


@pytest.mark.parametrize(
    ("text", "variables", "warnings"),
    [
        (
            "auth: {keys: $PUSH_KEYS}\nchannels: {a: }",
            {},
            ["auth.keys: a key looks like the name of a variable, and counts as it is written: write ${NAME}"],
        ),
        (
            "backend: redis://h\nredis: {min_replicas: 1}\nchannels: {a: {publish: nobody}}",
            {},
            ["redis.min_replicas is without effect: redis:// keeps no messages; redis-stream:// keeps them"],
        ),
        ("channels: {a: {publish: anyone}}", {}, ["anyone may publish to 'a'"]),
        ("channels: {a: {}}", {}, ["nobody can push to 'a': set auth.keys"]),
        *(
            (
                f"backend: {url}\nchannels: {{a: {{}}}}",
                {"HOST": "::"},
                ["nobody can push to 'a': set auth.keys (SQL still can)"],
            )
            for url in ("postgres://h", "postgresql://h", "postgresql+asyncpg://h")
        ),
        (
            'auth: {keys: "${PUSH_KEYS:-}"}\nchannels: {a: {}}',
            {},
            ["nobody can push to 'a': set PUSH_KEYS"],
        ),
        (
            "channels: {a: {publish: nobody}}",
            {"DATABASE_URL": "postgres://h", "PUSH_KEYS": "abcdefgh"},
            [
                "DATABASE_URL is set, but messages are kept in memory: write backend: ${DATABASE_URL:-memory://}",
                'PUSH_KEYS is set, but there are no keys: write auth: {keys: "${PUSH_KEYS:-}"}',
            ],
        ),
        ("auth: {keys: abcdefgh}\nchannels: {a: {}}", {}, []),
        ("channels: {a: {publish: operators}}", {}, []),
        ("auth: {keys: abcdefgh}\nbackend: postgres://h\nchannels: {a: {publish: operators}}", {"HOST": "::"}, []),
        (
            "backend: postgres://h\nchannels: {a: {publish: operators}}",
            {"HOST": "::"},
            ["nobody can push to 'a': set auth.keys (SQL still can)"],
        ),
        ("operators: key\nchannels: {a: {publish: operators}}", {}, ["nobody can push to 'a': set auth.keys"]),
        (
            "operators: anyone\nchannels: {a: {publish: operators}}",
            {},
            [
                "anyone may publish to 'a'",
                "operators: anyone: everybody who reaches the server sees its channels, metrics and documents",
            ],
        ),
        ("channels: {a: {publish: nobody}}", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
        (
            "channels: {a: {publish: nobody}}",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
            ["OTEL_EXPORTER_OTLP_ENDPOINT is no URL such as http://collector:4318: spans cannot be sent"],
        ),
        ("channels: {a: {publish: nobody}}", {"HOST": "localhost"}, []),
        ("channels: {a: {publish: nobody}}", {"HOST": "[::1]"}, []),
        *(
            (
                "channels: {a: {publish: nobody}}",
                {"HOST": host},
                [LOSES.format(host)],
            )
            for host in ("0.0.0.0", "::", "example.com")  # noqa: S104 — what a container listens on
        ),
    ],
)
def test_settings_warn_of_what_may_not_be_meant(
    load_text: Load, text: str, variables: dict[str, str], warnings: list[str]
) -> None:
    """Settings warn of what works but may not be meant."""
    assert list(load_text(text, **variables).warnings) == warnings


def test_settings_hold_the_urls_as_they_were_given(load_text: Load) -> None:
    """Settings hold the backend's URL as it was given, the direct one beside it, and whether commits go inline."""
    text = "backend: ${URL}\npostgres: {inline: '${INLINE}'}\nchannels: {a: }"
    url, direct = "postgresql+asyncpg://pooler/db", "postgres://h/db"
    loaded = load_text(text, URL=url, INLINE="false", DIRECT_DATABASE_URL=direct)
    assert loaded.backend == BackendSettings(url, direct, inline=False)
    plain = load_text(f"backend: {url}\npostgres:\nchannels: {{a: }}")
    assert plain.backend == BackendSettings(plain.backend.url, None, inline=True)


def test_blanks_around_urls_are_left_away(load_text: Load) -> None:
    """Settings leave away blanks and line breaks at the ends of URLs, which secrets often have."""
    loaded = load_text(
        "backend: ${URL}\nchannels: {a: }", URL=" postgres://pooler/db\r\n", DIRECT_DATABASE_URL="postgres://h/db\n"
    )
    assert loaded.backend == BackendSettings("postgres://pooler/db", "postgres://h/db")


def test_a_direct_url_is_left_alone_without_postgres(load_text: Load) -> None:
    """Settings leave DIRECT_DATABASE_URL alone where the backend is not Postgres."""
    assert load_text("channels: {a: }", DIRECT_DATABASE_URL="hunter2").backend.direct_url is None


def test_an_engine_without_history_takes_it_from_every_channel(load_text: Load) -> None:
    """Loader turns the history off that no file asks for, where the engine that serves keeps none, and only there."""
    text = "backend: redis://h\nchannels: {a: {}, b: {history: {size: 0, ttl: 5s}}, 'c.{x}': {history: {ttl: 1h}}}"
    loaded = load_text(text)
    assert [c.history for c in loaded.registry.channels] == [
        HistoryWindow(size=0), HistoryWindow(size=0, ttl=5), HistoryWindow(size=0, ttl=3600)
    ]  # fmt: skip
    assert loaded.registry.history("undeclared").size == 0
    before = load_text("backend: postgres://h\nchannels: {a: {}}")
    reloaded = load_text("backend: memory://\nchannels: {a: {}}")
    assert reloaded.served_by(before.backend.engine).registry.find("a").history == HistoryWindow()
    assert reloaded.served_by(loaded.backend.engine).registry.find("a").history.size == 0


def test_only_another_backend_asks_for_a_restart(load_text: Load) -> None:
    """Settings need a restart from others of another backend, and from no others."""
    variables = {"DIRECT_DATABASE_URL": "postgres://direct"}
    text = "backend: postgres://h\npostgres: {inline: true}\nchannels: {a: }"
    loaded = load_text(text, **variables)
    assert not load_text(text.replace("a:", "b:"), **variables).needs_restart_from(loaded)
    assert load_text(text.replace("//h", "//i"), **variables).needs_restart_from(loaded)
    assert load_text(text.replace("true", "false"), **variables).needs_restart_from(loaded)
    assert load_text(text).needs_restart_from(loaded)


def test_several_workers_on_memory_are_refused(configure: Configure) -> None:
    """Several workers on memory:// are refused, one is not."""
    environment = configure("channels: {a: {}}", WEB_CONCURRENCY="2")
    loaded = load(environment)
    with pytest.raises(ConfigError, match="WEB_CONCURRENCY: 2 workers cannot share memory://"):
        check_deployment(environment, loaded)
    check_deployment(replace(environment, workers=1), loaded)
    check_deployment(environment, replace(loaded, backend=BackendSettings("postgres://h")))
    ignored = configure("channels: {a: {}}", WEB_CONCURRENCY="2", DATABASE_URL="postgres://h")
    with pytest.raises(ConfigError, match=r"the file does not use DATABASE_URL: write backend: \$\{DATABASE_URL"):
        check_deployment(ignored, load(ignored))


def test_the_metrics_port_differs_from_the_servers(configure: Configure) -> None:
    """Port of the metrics is another than that of the server."""
    environment = configure("channels: {a: {}}", PORT="8000", METRICS_PORT="8000")
    with pytest.raises(ConfigError, match="METRICS_PORT: is PORT too"):
        check_deployment(environment, load(environment))
    check_deployment(replace(environment, metrics_port=9091), load(environment))


def test_no_secret_is_shown_by_repr(configure: Configure) -> None:
    """Neither settings nor environment show a secret when they are printed."""
    text = "backend: postgres://me:hunter2@h\nauth: {keys: '${K}'}\nchannels: {a: }"
    environment = configure(text, K="hunter2-hunter2", DIRECT_DATABASE_URL="postgres://me:hunter2@h")
    assert "hunter2" not in repr(environment) + repr(load(environment))


# Split at single spaces: the characters that YAML takes for spaces and line ends are pieces too.
PIECES = re.split(
    " ",
    "channels: defaults: auth: keys: tokens: history: size: publish: anyone a: b: 'a.{x}': : , - { } [ ] & * &x *x "
    "${A} ${ $${ | > ' \" # ! !!str %YAML --- ... << ? @ ` ~ \t \n \n  \r \u2028 \x85 \ufeff \x00 \\ 1 1e3 on",
)
TEXTS = st.one_of(
    st.text(), st.lists(st.sampled_from(PIECES)).map(" ".join), st.lists(st.sampled_from(PIECES)).map("".join)
)


@given(st.one_of(st.binary(), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"? &a [*a] : *a")
@example(b'"\\uD800": 1')
@example(b"channels: {a: {}}")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_becomes_settings_or_printable_problems(configure: Configure, content: bytes) -> None:
    """Loader turns any content at all into settings or into an error with problems that can be printed."""
    outcome = attempt(configure(content))
    if isinstance(outcome, Settings):
        assert outcome.registry.channels
        return
    assert outcome.diagnostics
    assert len(str(outcome).splitlines()) == len(outcome.diagnostics)
    assert str(outcome).encode()
    assert all(problem.line >= 1 and problem.column >= 1 for problem in outcome.diagnostics)


def attempt(environment: Environment) -> Settings | ConfigError:
    """Load, and return the error instead of raising it."""
    try:
        return load(environment)
    except ConfigError as error:
        return error
