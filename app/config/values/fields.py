"""Every kind of value in the file: its check, its messages, and its JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, LiteralString, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError

from app.config.backends import kafka, url
from app.config.diagnostics import did_you_mean, listed, quoted
from app.config.patterns import BLANKS, VARIABLE
from app.config.values import names, origins, schema_path, units
from app.config.yaml.document import Interpolated, Unquoted
from app.core.channel import MAX_MESSAGE_SIZE, SlowSubscriber
from app.core.rights.policy import Access

MAX_HISTORY_SIZE = 1_000_000
MAX_HISTORY_TTL = 365 * units.DURATIONS["d"]

E = TypeVar("E", bound=StrEnum)


class SaslMechanism(StrEnum):
    """How a user logs in to Kafka."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


_KINDS: dict[type, str] = {type(None): "nothing", list: "a list", dict: "a mapping"}


def refuse(message: str) -> NoReturn:
    """Refuse a value; ``message`` says what to write."""
    kind: LiteralString = "abide"
    raise PydanticCustomError(kind, "{message}", {"message": message})


def show(value: object) -> str:
    """Return a wrong value as text. A value from the environment may be a secret, and is not shown."""
    if isinstance(value, Interpolated):
        return "the value of its variable"
    if isinstance(value, str):
        return quoted(value)
    return _KINDS.get(type(value)) or str(value).lower()


def or_variable(schema: JsonSchemaValue) -> WithJsonSchema:
    """Let editors accept ``${VAR}``, whose value they do not know."""
    return WithJsonSchema({"anyOf": [schema, {"type": "string", "pattern": VARIABLE}]})


def text_schema(*patterns: str) -> JsonSchemaValue:
    """Return the schema of a text that matches one of these patterns."""
    return {"anyOf": [{"type": "string", "pattern": pattern} for pattern in (*patterns, VARIABLE)]}


def _boolean(value: object) -> bool:
    if isinstance(value, Interpolated) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        refuse(f"write true or false, not {show(value)}")
    return value


def _choice(kind: type[E], now: tuple[E, ...]) -> Callable[[object], E]:
    def validate(value: object) -> E:
        allowed = listed(now)
        if isinstance(value, str) and value in now:
            return kind(value)
        near = did_you_mean(value, now) if isinstance(value, str) else ""
        refuse(f"write {allowed}, not {show(value)}{near}")

    return validate


def quantity(
    units_: Mapping[str, int], example: str, least: int, most: int, write: Callable[[int], str]
) -> Callable[[object], int]:
    """Return the check of an amount in these units: a number from ``least`` to ``most``, or a text with a unit."""

    def validate(value: object) -> int:
        is_text = isinstance(value, str) and not isinstance(value, Unquoted)
        amount = units.amount(str(value), units_) if is_text else value
        if isinstance(amount, bool) or not isinstance(amount, int):
            refuse(f"write {example}, not {show(value)}")
        if not least <= amount <= most:
            refuse(f"must be from {write(least)} to {write(most)}, not {show(value)}")
        return amount

    return validate


def quantity_schema(units_: Mapping[str, int], least: int, most: int) -> WithJsonSchema:
    """Return the schema of what :func:`quantity` accepts."""
    number = {"type": "integer", "minimum": least, "maximum": most}
    return WithJsonSchema({"anyOf": [number, *text_schema(units.pattern(units_, least, most))["anyOf"]]})


def _later(what: str) -> Callable[[object], None]:
    def validate(value: object) -> None:
        if value is not None and value != "":
            refuse(f"{what} not yet available: remove the key")

    return validate


def _no_presence(value: bool) -> bool:  # noqa: FBT001 — pydantic passes the value by position
    if value:
        refuse("presence is not yet available: write false")
    return value


def _backend(value: object) -> str:
    if not isinstance(value, str):
        refuse(f"must be a URL such as memory://, not {show(value)}")
    text = str(value).strip(BLANKS)  # secrets often end with a newline
    if message := url.refusal(text):
        refuse(message)
    return text


def _schema_path(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or isinstance(value, Unquoted):
        refuse(f"must be the path of a file, not {show(value)}")
    if message := schema_path.refusal(value):
        refuse(message)
    return str(value)


def _topic(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or isinstance(value, Unquoted):
        refuse(f"must be the name of a topic in Kafka, not {show(value)}")
    if message := kafka.topic_refusal(value):
        refuse(message)
    return str(value)


def _origin(value: object) -> str:
    origin = origins.parse(value) if isinstance(value, str) else None
    if origin is None:
        if isinstance(value, str) and value.lower().startswith(origins.SOCKETS):
            refuse(
                f"a page's origin starts with https:// or http://, even if the page opens sockets, not {show(value)}"
            )
        examples = "https://example.com:8443 or https://*.example.com"
        refuse(f'write "*", "null" or an origin without a path, as in {examples}, not {show(value)}')
    return origin


def _operators(value: object) -> Access | None:
    return None if value is None or value == "" else _OPERATORS_CHOICE(value)


def _name(value: str) -> str:
    if isinstance(value, Unquoted):
        refuse(f'YAML reads this name as {value.reads_as}: write it in quotes, "{value}"')
    if message := names.refusal(value):
        refuse(message)
    return str(value)


_OPERATORS = (Access.ANYONE, Access.KEY)
_OPERATORS_CHOICE = _choice(Access, _OPERATORS)

Boolean = Annotated[bool, BeforeValidator(_boolean), or_variable({"type": "boolean"})]
Operators = Annotated[Access | None, BeforeValidator(_operators), or_variable({"enum": [*_OPERATORS, None, ""]})]
Slow = Annotated[
    SlowSubscriber,
    BeforeValidator(_choice(SlowSubscriber, tuple(SlowSubscriber))),
    or_variable({"enum": [*SlowSubscriber]}),
]
HistorySize = Annotated[
    int,
    BeforeValidator(quantity(units.COUNT, "a number of messages such as 1000", 0, MAX_HISTORY_SIZE, str)),
    quantity_schema(units.COUNT, 0, MAX_HISTORY_SIZE),
]
HistoryTtl = Annotated[
    int,
    BeforeValidator(
        quantity(units.DURATIONS, "whole seconds, or 30s, 15m, 24h or 7d", 1, MAX_HISTORY_TTL, units.write_duration)
    ),
    quantity_schema(units.DURATIONS, 1, MAX_HISTORY_TTL),
]
MessageSize = Annotated[
    int,
    BeforeValidator(
        quantity(units.SIZES, "bytes, or 500B, 64kB, 64KiB or 1MiB", 1, MAX_MESSAGE_SIZE, units.write_size)
    ),
    quantity_schema(units.SIZES, 1, MAX_MESSAGE_SIZE),
]
Presence = Annotated[bool, BeforeValidator(_boolean), AfterValidator(_no_presence), or_variable({"const": False})]
_OFF = or_variable({"enum": [None, ""]})
MessageSchema = Annotated[
    str | None,
    BeforeValidator(_schema_path),
    WithJsonSchema({"anyOf": [{"enum": [None, ""]}, *text_schema(schema_path.PATTERN)["anyOf"]]}),
]
Topic = Annotated[
    str | None,
    BeforeValidator(_topic),
    WithJsonSchema({"anyOf": [{"enum": [None, ""]}, *text_schema(kafka.TOPIC)["anyOf"]]}),
]
Sasl = Annotated[
    SaslMechanism,
    BeforeValidator(_choice(SaslMechanism, tuple(SaslMechanism))),
    or_variable({"enum": [*SaslMechanism]}),
]
BackendUrl = Annotated[
    str,
    BeforeValidator(_backend),
    WithJsonSchema(text_schema(url.PATTERN)),
]
Origin = Annotated[
    str,
    BeforeValidator(_origin),
    WithJsonSchema(text_schema(origins.PATTERN)),
]
Name = Annotated[str, BeforeValidator(_name)]
