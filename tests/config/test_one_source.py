"""What the loader takes and what the JSON Schema takes: the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import idna
import jsonschema_rs
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import ConfigError, Environment, json_schema
from app.config.backends.url import kind, refusal
from app.config.load import parse
from app.config.patterns import fits, number, whole
from app.config.schemas.files import SchemaFiles
from app.config.values.origins import BEYOND_ASCII
from app.core.channel import RESERVED
from app.core.ports import Limits

ENVIRONMENT = Environment(channels_config=Path("channels.yaml"))
SCHEMA = jsonschema_rs.validator_for(json_schema())

PIECES = {
    "rates": "1 0 10 1000000 1000001 / /s /m /h /d s 10/s 600/m 1/h -1",
    "amounts": (
        "0 1 00 9 12 365 366 8760 8761 31536000 31536001 525600 1048 1049 1024 1025 1048576 1048577 1000000 1000001 "
        "999999999999 1000000000000 -1 +1 1.0 1.5 1e3 99 100 30 31 ms s m h d w B kB KB KiB MB MiB GiB K \u0663"
    ),
    "words": "anyone key operators nobody token Anyone true false yes on off null catch_up drop disconnect x",
    "origins": (
        "* null http:// https:// HTTPS:// ws:// app:// :// *. a A. b. example .example .com com localhost 127 .0 .1 "
        "0x7f 1.2.3.4 256 [::1] [1::2:3] [::ffff:1.2.3.4] [::ffff:102:304] [1::2::3] [ ] : :0 :1 :80 :0443 :65535 "
        ":65536 / ? # @ % xn-- - _ .. \u00e9 \u00df \u00fc \u212a \u3002 \u201c \u2764 \u00bd \U0001f600 \u200b"
    ),
    "keys": "abcdefgh first-key-1 short \u00e9 $ $x { , ,, ! ~ abcd",
    "backends": (
        "memory:// MEMORY:// postgres:// Postgresql:// postgres+asyncpg:// postgres+\u00e9:// redis:// kafka:// "
        "redis-stream:// Rediss-Stream:// redis-stream+cluster:// rediss-stream+sentinel:// /0 /service /0 "
        "?ssl_cert_reqs=none &ssl_ca_certs=a "
        "mysql:// :// u user:pw@ u%40@ @ p[w]@ [w@ h host.example :5432 :0 :65536 :x : , / /db ? ?a=b &c=d &c "
        "?port=5432 ?port=1,2 ?port=x # [::1] [x] \u00e9 \uff1a \uff20 %"
    ),
    "urls": "https:// http:// :// login.example localhost 127.0.0.1 [::1] .. me@ : :80 :0 / ?a=b # % %41 \u00e9 {",
    "headers": "cookie Cookie x-a x_a host Host content- if- te ts - 1 : \u00e9",
    "paths": "order.json schemas a b.c / // . .. ./ ../ \\ \u00e9 ~ : " + "n" * 255 + " " + "n" * 256,
    "names": "a B 1 _ - . : {x} {y_1} {1} {} { } {x}{y} \u00e9 push ws docs robots.txt " + "n" * 250,
}
"""What texts are made of, by what they are for."""

WORDS = {kind: pieces.split() for kind, pieces in PIECES.items()}
TEXTS = {
    kind: st.lists(st.sampled_from([*words, " ", "\n"]), max_size=6).map("".join) | st.sampled_from(words)
    for kind, words in WORDS.items()
}
BROKEN = st.sampled_from(["${", "${}", "${1}", "a${", "$", "$$", "${A", "${A:-b", "${A b}"])
OTHERS: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, -1, 5, 60, 1000000, 1048576, 31536000, 31536001, 10**20, 1.0, 60.0, 1.5, -0.0, [], {}, ""]
)
CHANNEL = {
    **dict.fromkeys(("publish", "subscribe", "slow_subscriber"), "words"),
    **dict.fromkeys(("client_publish", "presence"), "words"),
    "max_message_size": "amounts",
}


def values(of: str) -> st.SearchStrategy[Any]:
    return TEXTS[of] | OTHERS | BROKEN


def one_of(strategies: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a mapping with one key."""
    return st.sampled_from(sorted(strategies)).flatmap(lambda key: strategies[key].map(lambda value: {key: value}))


LIMITS = [field.name for field in fields(Limits)]
POLICY = {key: values(kind) for key, kind in CHANNEL.items()} | {
    "rate_limit": st.fixed_dictionaries(
        {}, optional={key: values("rates") for key in ("per_identity", "per_channel", "burst")} | {"x": OTHERS}
    )
    | values("rates"),
    "history": one_of({"size": values("amounts"), "ttl": values("amounts"), "x": OTHERS}) | OTHERS,
    "unknown": OTHERS,
}
FILES = one_of(
    {
        "backend": values("backends"),
        "postgres": one_of({"inline": values("words"), "x": OTHERS}) | OTHERS,
        "redis": one_of({"min_replicas": values("amounts"), "x": OTHERS}) | OTHERS,
        "auth": one_of(
            {
                "keys": values("keys") | st.lists(values("keys"), max_size=2),
                "tokens": one_of({key: values("words") for key in ("secret", "jwks", "x")}) | OTHERS,
                "ask": one_of(
                    {
                        "url": values("urls"),
                        "forward": st.lists(values("headers"), max_size=2) | OTHERS,
                        "timeout": values("amounts"),
                    }
                )
                | OTHERS,
            }
        )
        | OTHERS,
        "origins": st.lists(values("origins"), max_size=2) | OTHERS,
        "operators": values("words"),
        "limits": one_of({key: values("amounts") for key in (*LIMITS, "x")}) | OTHERS,
        "console": values("words"),
        "defaults": one_of(POLICY) | OTHERS,
        "channels": st.fixed_dictionaries({"a": one_of(POLICY | {"schema": values("paths")}) | OTHERS})
        | st.dictionaries(TEXTS["names"], st.none(), max_size=1)
        | OTHERS,
        "unknown": OTHERS,
    }
).map(lambda file: {"channels": {"a": None}} | file)


NEEDS = ("needs tokens: set auth.tokens.secret, or auth.tokens.jwks", "ask needs an application: set auth.ask.url")
"""How the problems end that are about two keys together, which editors cannot see."""


class Anything(SchemaFiles):
    """A folder in which each path leads to a schema: whether one does, editors cannot see."""

    def read(self, path: str) -> bytes:
        """Return a schema."""
        self.contents[path] = b"true"
        return b"true"


def loads(text: str) -> bool:
    try:
        parse(text.encode(), ENVIRONMENT, Anything(Path()))
    except ConfigError as error:
        return all(problem.message.endswith(NEEDS) for problem in error.diagnostics)
    return True


def assert_same(file: object) -> None:
    """Hold that a file is taken by both, or by neither."""
    text = json.dumps(file, ensure_ascii=False)  # which is YAML as well
    assert loads(text) == SCHEMA.is_valid(yaml.safe_load(text)), text


@pytest.mark.parametrize("word", ["${", "a${", "${A"])
def test_loader_and_schema_refuse_half_a_variable(word: str) -> None:
    """Loader and JSON Schema agree on a reference to a variable that does not end, wherever a text may be."""
    for place in (
        {"auth": {"tokens": {"issuer": word}}},
        {"auth": {"tokens": {"audience": word}}},
        {"auth": {"tokens": {"cookie": word}}},
        {"auth": {"tokens": {"secret": word * 32}}},
        {"auth": {"tokens": {"claims": {"publish": word}}}},
        {"auth": {"keys": [{"name": "a", "key": word * 8}]}},
        {"auth": {"keys": [{"name": "a", "key": "k" * 8, "publish": [word]}]}},
        {"auth": {"ask": {"url": f"https://a/{word}"}}},
        {"channels": {"a": {"schema": word}}},
        {"channels": {"a.{x}": {"subscribe": {"claim": word}}}},
    ):
        assert_same({"channels": {"a": None}} | place)


@settings(max_examples=300)
@given(FILES)
def test_loader_and_schema_take_the_same(file: dict[str, Any]) -> None:
    """Loader and JSON Schema agree on every value of every key."""
    assert_same(file)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("amounts", lambda text: {"defaults": {"max_message_size": text}}),
        ("amounts", lambda text: {"defaults": {"history": {"ttl": text}}}),
        ("amounts", lambda text: {"defaults": {"history": {"size": text}}}),
        ("origins", lambda text: {"origins": [text]}),
        ("keys", lambda text: {"auth": {"keys": [text]}}),
        ("keys", lambda text: {"auth": {"keys": text}}),
        ("backends", lambda text: {"backend": text}),
        ("paths", lambda text: {"channels": {"a": {"schema": text}}}),
    ],
    ids=["size", "ttl", "count", "origin", "key", "keys", "backend", "path"],
)
def test_loader_and_schema_agree_on_each_word(words: str, place: Callable[[str], dict[str, Any]]) -> None:
    """Loader and JSON Schema agree on each word that the values above are made of, and on what stands around it."""
    for word in WORDS[words]:
        for text in (word, f"{word} ", f" {word}", f"{word}\n", f"1{word}", f"https://{word}", f"postgres://h{word}"):
            assert_same({"channels": {"a": None}} | place(text))


@pytest.mark.parametrize("name", [*sorted(RESERVED), *(f"{name}s" for name in sorted(RESERVED)), "n" * 255, "n" * 256])
def test_loader_and_schema_agree_on_names(name: str) -> None:
    """Loader and JSON Schema agree on reserved names, and on how long one may be, with a parameter as well."""
    assert_same({"channels": {name: None}})
    for literal in (254, 255):
        assert_same({"channels": {name[: literal - 3] + "{room}" + "s" * (literal - len(name[: literal - 3])): None}})


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 3000), st.integers(0, 3))
def test_pattern_of_a_range_has_its_numbers_alone(first: int, second: int, number_: int, zeros: int) -> None:
    """Pattern of a range of numbers fits those in it, and no others."""
    least, most = sorted((first, second))
    assert fits(whole(number(least, most)), "0" * zeros + str(number_)) == (least <= number_ <= most)


@settings(max_examples=150)
@given(TEXTS["backends"])
def test_urls_that_are_taken_can_be_parsed(text: str) -> None:
    """Loader takes no backend's URL that the driver's parser refuses."""
    if kind(text) == "postgres" and refusal(text) is None:
        urlsplit(text)


def test_no_letter_of_an_origin_becomes_ascii() -> None:
    """Origins have no letter that browsers map to ASCII, which could end the host, or to nothing."""
    for code in range(0x80, 0x10000):
        if fits(whole(f"[{BEYOND_ASCII}]"), chr(code)):
            try:
                mapped = idna.uts46_remap(chr(code), std3_rules=False, transitional=False)
            except idna.IDNAError:
                continue
            assert mapped, hex(code)
            assert not any(character.isascii() for character in mapped), hex(code)
