"""Every kind of value in the file: its check, its messages, and its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from app.config.diagnostics import did_you_mean, listed
from app.config.patterns import BLANKS, whole
from app.config.values import backend_url, names, origins, units
from app.config.values.checks import amount as _amount
from app.config.values.checks import amount_schema as _amount_schema
from app.config.values.checks import or_variable as _or_variable
from app.config.values.checks import refuse as _refuse
from app.config.values.checks import show as _show
from app.config.values.checks import text as _text
from app.config.yaml.document import Interpolated, Unquoted
from app.core.channel import MAX_MESSAGE_SIZE, Access, SlowSubscriber

MAX_HISTORY_SIZE = 1_000_000
MAX_HISTORY_TTL = 365 * units.DURATIONS["d"]

E = TypeVar("E", bound=StrEnum)

_KEY = "[!-~]{8,}"
_BLANK = f"[{BLANKS}]*"
_ONE_KEY = whole(rf"(?![\s\S]*\$\{{){_BLANK}(?:{_KEY})?{_BLANK}")
_SOME_KEYS = whole(rf"(?![\s\S]*\$\{{){_BLANK}(?:[!-+.-~-]{{8,}})?{_BLANK}(?:,{_BLANK}(?:[!-+.-~-]{{8,}})?{_BLANK})*")
"""In one text with commas between the keys, no key has a comma."""


def _boolean(value: object) -> bool:
    if isinstance(value, Interpolated) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        _refuse(f"write true or false, not {_show(value)}")
    return value


def _choice(kind: type[E], now: tuple[E, ...], later: tuple[E, ...]) -> Callable[[object], E]:
    def validate(value: object) -> E:  # noqa: RET503 — a refusal raises
        allowed = listed(now)
        if isinstance(value, str) and value in now:
            return kind(value)
        if isinstance(value, str) and value in later:
            _refuse(f"{kind(value)} is not yet available: write {allowed}")
        near = did_you_mean(value, now) if isinstance(value, str) else ""
        _refuse(f"write {allowed}, not {_show(value)}{near}")

    return validate


def _later(what: str) -> Callable[[object], None]:
    def validate(value: object) -> None:
        if value is not None and value != "":
            _refuse(f"{what} not yet available: remove the key")

    return validate


def _no_presence(value: bool) -> bool:  # noqa: FBT001 — pydantic passes the value by position
    if value:
        _refuse("presence is not yet available: write false")
    return value


def _backend(value: object) -> str:
    if not isinstance(value, str):
        _refuse(f"must be a URL such as memory://, not {_show(value)}")
    url = str(value).strip(BLANKS)  # secrets often end with a newline
    if message := backend_url.refusal(url):
        _refuse(message)
    return url


def _split_keys(value: object) -> object:
    if value is None:
        return []
    if isinstance(value, Unquoted) or not isinstance(value, str | list):
        _refuse('write keys as "text" with commas between them, or as a list of texts')
    return value.split(",") if isinstance(value, str) else value


def _drop_empty(keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(filter(None, keys))


def _key(value: object) -> bytes:
    if value is None or value == "":
        return b""
    if not isinstance(value, str) or isinstance(value, Unquoted):
        _refuse("a key is text: put it in quotes")
    key = value.strip(BLANKS)
    if key and not re.fullmatch(_KEY, key):
        _refuse("a key needs at least 8 characters, all visible ASCII (the key is not shown here)")
    return key.encode("ascii")


def _origin(value: object) -> str:
    origin = origins.parse(value) if isinstance(value, str) else None
    if origin is None:
        if isinstance(value, str) and value.lower().startswith(origins.SOCKETS):
            _refuse(
                f"a page's origin starts with https:// or http://, even if the page opens sockets, not {_show(value)}"
            )
        examples = "https://example.com:8443 or https://*.example.com"
        _refuse(f'write "*", "null" or an origin without a path, as in {examples}, not {_show(value)}')
    return origin


def _operators(value: object) -> Access | None:
    return None if value is None or value == "" else _OPERATORS_CHOICE(value)


def _name(value: str) -> str:
    if isinstance(value, Unquoted):
        _refuse(f'YAML reads this name as {value.reads_as}: write it in quotes, "{value}"')
    if message := names.refusal(value):
        _refuse(message)
    return str(value)


_PUBLISH = (Access.ANYONE, Access.KEY, Access.OPERATORS, Access.NOBODY)
_TOKEN = (Access.TOKEN,)
_OPERATORS = (Access.ANYONE, Access.KEY)
_OPERATORS_CHOICE = _choice(Access, _OPERATORS, ())

Boolean = Annotated[bool, BeforeValidator(_boolean), _or_variable({"type": "boolean"})]
Publish = Annotated[Access, BeforeValidator(_choice(Access, _PUBLISH, _TOKEN)), _or_variable({"enum": list(_PUBLISH)})]
Subscribe = Annotated[
    Access, BeforeValidator(_choice(Access, (Access.ANYONE,), _TOKEN)), _or_variable({"enum": [Access.ANYONE]})
]
Operators = Annotated[Access | None, BeforeValidator(_operators), _or_variable({"enum": [*_OPERATORS, None, ""]})]
Slow = Annotated[
    SlowSubscriber,
    BeforeValidator(_choice(SlowSubscriber, tuple(SlowSubscriber), ())),
    _or_variable({"enum": [*SlowSubscriber]}),
]
HistorySize = Annotated[
    int,
    BeforeValidator(_amount(units.COUNT, "a number of messages such as 1000", 0, MAX_HISTORY_SIZE, str)),
    _amount_schema(units.COUNT, 0, MAX_HISTORY_SIZE),
]
HistoryTtl = Annotated[
    int,
    BeforeValidator(
        _amount(units.DURATIONS, "whole seconds, or 30s, 15m, 24h or 7d", 1, MAX_HISTORY_TTL, units.write_duration)
    ),
    _amount_schema(units.DURATIONS, 1, MAX_HISTORY_TTL),
]
MessageSize = Annotated[
    int,
    BeforeValidator(_amount(units.SIZES, "bytes, or 500B, 64kB, 64KiB or 1MiB", 1, MAX_MESSAGE_SIZE, units.write_size)),
    _amount_schema(units.SIZES, 1, MAX_MESSAGE_SIZE),
]
Presence = Annotated[bool, BeforeValidator(_boolean), AfterValidator(_no_presence), _or_variable({"const": False})]
_OFF = _or_variable({"enum": [None, ""]})
MessageSchema = Annotated[None, BeforeValidator(_later("message schemas are")), _OFF]
Tokens = Annotated[None, BeforeValidator(_later("tokens are")), _OFF]
BackendUrl = Annotated[
    str,
    BeforeValidator(_backend),
    WithJsonSchema(_text(backend_url.PATTERN)),
]
Key = Annotated[bytes, BeforeValidator(_key)]
Keys = Annotated[
    tuple[Key, ...],
    BeforeValidator(_split_keys),
    AfterValidator(_drop_empty),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "null"},
                *_text(_SOME_KEYS)["anyOf"],
                {"type": "array", "items": {"anyOf": [{"type": "null"}, *_text(_ONE_KEY)["anyOf"]]}},
            ]
        }
    ),
]
Origin = Annotated[
    str,
    BeforeValidator(_origin),
    WithJsonSchema(_text(origins.PATTERN)),
]
Name = Annotated[str, BeforeValidator(_name)]
