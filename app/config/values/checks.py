"""Checks that kinds of values share, their messages, and their JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import LiteralString, NoReturn

from pydantic import WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError

from app.config.diagnostics import quoted
from app.config.patterns import VARIABLE
from app.config.values import units
from app.config.yaml.document import Interpolated, Unquoted

_KINDS: dict[type, str] = {type(None): "nothing", list: "a list", dict: "a mapping"}


def refuse(message: str) -> NoReturn:
    """Refuse the value that is checked; the message says what to write."""
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


def text(*patterns: str) -> JsonSchemaValue:
    """Return the schema of a text that matches one of these patterns."""
    return {"anyOf": [{"type": "string", "pattern": pattern} for pattern in (*patterns, VARIABLE)]}


def amount(
    units_: Mapping[str, int], example: str, least: int, most: int, write: Callable[[int], str]
) -> Callable[[object], int]:
    """Return the check of a number from ``least`` to ``most`` in these units, for which ``example`` is written."""

    def validate(value: object) -> int:
        is_text = isinstance(value, str) and not isinstance(value, Unquoted)
        number = units.amount(str(value), units_) if is_text else value
        if isinstance(number, bool) or not isinstance(number, int):
            refuse(f"write {example}, not {show(value)}")
        if not least <= number <= most:
            refuse(f"must be from {write(least)} to {write(most)}, not {show(value)}")
        return number

    return validate


def amount_schema(units_: Mapping[str, int], least: int, most: int) -> WithJsonSchema:
    """Return the JSON Schema of what :func:`amount` takes."""
    number = {"type": "integer", "minimum": least, "maximum": most}
    return WithJsonSchema({"anyOf": [number, *text(units.pattern(units_, least, most))["anyOf"]]})
