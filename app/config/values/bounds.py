"""The values of ``limits`` and of ``rate_limit``: their checks, their messages, and their JSON Schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from app.config.patterns import VARIABLE
from app.config.values import units
from app.config.values.fields import quantity, quantity_schema, refuse, show, text_schema
from app.config.yaml.document import Unquoted

MAX_COUNT = 1_000_000
MAX_RATE = 1_000_000
MAX_REPLICAS = 100
LEAST_BODIES, MAX_BODIES = 16 * units.SIZES["MiB"], 64 * 1024 * units.SIZES["MiB"]
MAX_TIME = units.DURATIONS["h"]

_RATE = "10/s, 600/m or 3600/h"
_RATES = "10/s, or {per_identity: 10/s, per_channel: 1000/s, burst: 50}"


def _rate(value: object) -> tuple[int, int]:
    rate = units.rate(str(value)) if isinstance(value, str) and not isinstance(value, Unquoted) else None
    if rate is None:
        refuse(f"write {_RATE}, not {show(value)}")
    if not 1 <= rate[0] <= MAX_RATE:
        refuse(f"must be from 1 to {MAX_RATE}, not {show(value)}")
    return rate


def _rates(value: object) -> object:
    """Let one text be the rate of each publisher."""
    if value is None or value == "":
        return None
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        refuse(f"write {_RATES}, not {show(value)}")
    _rate(value)
    return {"per_identity": value}


class _OrText:
    """Lets editors accept the text, too."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        texts = [{"type": "string", "pattern": pattern} for pattern in (units.rate_pattern(MAX_RATE), VARIABLE)]
        return {"anyOf": [*handler(core_schema)["anyOf"], {"const": ""}, *texts]}


class _OrAbsent:
    """Lets editors accept a key without a value, too."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": [None, ""]}, *handler(core_schema)["anyOf"]]}


def _count_or_none(value: object) -> int | None:
    return None if value is None or value == "" else _count(value)


_count = quantity(units.COUNT, "a number such as 1000", 1, MAX_COUNT, str)

Count = Annotated[int, BeforeValidator(_count), quantity_schema(units.COUNT, 1, MAX_COUNT)]
Replicas = Annotated[
    int,
    BeforeValidator(quantity(units.COUNT, "a number such as 1", 0, MAX_REPLICAS, str)),
    quantity_schema(units.COUNT, 0, MAX_REPLICAS),
]
CountOrNone = Annotated[
    int | None,
    BeforeValidator(_count_or_none),
    quantity_schema(units.COUNT, 1, MAX_COUNT),
    _OrAbsent(),
]
Bodies = Annotated[
    int,
    BeforeValidator(quantity(units.SIZES, "bytes, or 64MiB", LEAST_BODIES, MAX_BODIES, units.write_size)),
    quantity_schema(units.SIZES, LEAST_BODIES, MAX_BODIES),
]
Time = Annotated[
    int,
    BeforeValidator(quantity(units.DURATIONS, "whole seconds, or 30s or 5m", 1, MAX_TIME, units.write_duration)),
    quantity_schema(units.DURATIONS, 1, MAX_TIME),
]
RateText = Annotated[
    tuple[int, int] | None, BeforeValidator(_rate), WithJsonSchema(text_schema(units.rate_pattern(MAX_RATE)))
]
"""How many, and in how many seconds."""
Burst = Annotated[int | None, BeforeValidator(_count), quantity_schema(units.COUNT, 1, MAX_COUNT)]
OrText = BeforeValidator(_rates), _OrText()
"""What makes a section of rates a text, too."""
