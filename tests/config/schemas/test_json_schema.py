"""A schema file, and what its verdict on messages is."""

from __future__ import annotations

import json
import pickle
import time
from typing import Any

import pytest

from app.config.schemas.json_schema import JsonSchema, SchemaFileError
from app.core.schema import Misfit

ORDER = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "a/b~c": {"type": "null"},
        "at": {"type": "string", "format": "date-time"},
        "never": False,
    },
    "patternProperties": {"^x-": {"type": "string"}},
    "additionalProperties": False,
    "$defs": {"item": {"allOf": [{"required": ["price"]}, {"properties": {"price": {"minimum": 0}}}]}},
}
NODE = {"$ref": "#/$defs/node"}


def schema(document: object) -> JsonSchema:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return JsonSchema("schemas/order.json", content)


def misfit(document: object, message: bytes | str) -> Misfit | None:
    return schema(document).misfit(message.encode() if isinstance(message, str) else message)


@pytest.mark.parametrize(
    ("message", "pointer", "reason"),
    [
        ("3", "", 'not of type "object"'),
        ("{}", "", '"id" is a required property'),
        ('{"id": "1"}', "/id", 'not of type "integer"'),
        ('{"id": 1, "items": {}}', "/items", 'not of type "array"'),
        ('{"id": 1, "items": [{"price": 1}, {}]}', "/items/1", '"price" is a required property'),
        ('{"id": 1, "items": [{"price": 1}, {"price": -1}]}', "/items/1/price", "less than the minimum of 0"),
        ('{"id": 1, "a/b~c": 1}', "/a~1b~0c", 'not of type "null"'),
        ('{"id": 1, "at": "today"}', "/at", 'not a "date-time"'),
        ('{"id": 1, "never": 1}', "/never", "nothing may be here"),
        ('{"id": 1, "x-y": 1}', "/x-y", 'not of type "string"'),
        ('{"id": 1, "other": 1}', "", "'other' was unexpected"),
    ],
)
def test_a_misfit_is_pointed_at_with_its_reason(message: str, pointer: str, reason: str) -> None:
    """Schema says which value does not fit, and why."""
    found = misfit(ORDER, message)
    assert found is not None
    assert found.pointer == pointer
    assert reason in found.reason


@pytest.mark.parametrize(
    ("document", "message", "pointer"),
    [
        ({"additionalProperties": {"type": "integer"}}, '{"a": 1, "b": ""}', "/b"),
        ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, '[1, "a", 2]', "/2"),
        ({"prefixItems": [{"type": "integer"}]}, '["a", 2]', "/0"),
        ({"if": {"required": ["a"]}, "then": {"properties": {"b": False}}, "else": False}, '{"a": 1, "b": 2}', "/b"),
        ({"if": {"required": ["a"]}, "then": {"properties": {"b": False}}, "else": False}, '{"b": 2}', ""),
        ({"dependentSchemas": {"a": {"properties": {"b": False}}}}, '{"a": 1, "b": 2}', "/b"),
        ({"properties": {"a": {"anyOf": [{"type": "null"}, {"required": ["b"]}]}}}, '{"a": {}}', "/a"),
        ({"properties": {"a": {"$ref": "#"}}, "type": "object"}, '{"a": {"a": {"a": 1}}}', "/a/a/a"),
        ({"$id": "order.json", **ORDER}, '{"id": ""}', "/id"),
        ({"$id": "https://a.example/order", **ORDER}, '{"id": 1, "items": [{}]}', "/items/0"),
        ({"propertyNames": {"maxLength": 2}}, '{"abc": 1}', ""),
        ({"properties": {"a": {"unevaluatedProperties": False}}}, '{"a": {"b": 1}}', "/a"),
    ],
)
def test_the_pointer_follows_the_schema(document: object, message: str, pointer: str) -> None:
    """Pointer leads through every keyword whose parts must all fit, and ends at those that offer a choice."""
    found = misfit(document, message)
    assert found is not None
    assert found.pointer == pointer


@pytest.mark.parametrize(
    "message",
    [
        '{"id": 1.0}',
        '{"id": 1e400}',
        '{"id": 123456789012345678901234567890}',
        '{"id": ' + "9" * 5000 + "}",
        '{"id": 1e99999999999999999999}',
        '{"id": 0e99999999999999999999}',
        '{"id": 1, "x-a": "\\ud800"}',
    ],
)
def test_numbers_and_strings_are_judged_whatever_their_size(message: str) -> None:
    """Integer of any size is one, and half of a surrogate pair is a character of a string."""
    assert misfit(ORDER, message) is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b'{"const": 12345678901234567890123}', "12345678901234567890124"),
        (b'{"maximum": 9007199254740992}', "9007199254740993"),
        (b'{"type": "integer"}', "1e-99999999999999999999"),
        (b'{"maximum": 5}', "9" * 5000),
        (b'{"type": "string", "maxLength": 1}', '"\\ud800a"'),
    ],
)
def test_numbers_are_not_rounded(document: bytes, message: str) -> None:
    """Number that fits only when it is rounded does not fit."""
    assert misfit(document, message) is not None


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        ('{"id": "a", "id": 1}', "/id"),
        ('{"id": 1, "id": "a"}', "/id"),
        ('{"id": 1, "items": [{"price": 1}, {"price": 1, "a": 1, "\\u0070rice": -1}]}', "/items/1/price"),
    ],
)
def test_a_name_that_appears_twice_fits_no_schema(message: str, pointer: str) -> None:
    """Object that has a name twice does not fit, because each reader may take another of its values."""
    found = misfit(ORDER, message)
    assert found is not None
    assert found.pointer == pointer
    assert "twice" in found.reason


@pytest.mark.parametrize("kind", ["anyOf", "oneOf", "allOf"])
def test_a_deep_message_is_judged_at_once_by_a_schema_that_refers_to_itself(kind: str) -> None:
    """Misfit at the bottom of 127 levels is found in time that does not double with each level."""
    choices = [
        {"type": "object", "required": ["a"], "properties": {"a": NODE}},
        {"type": "object", "properties": {"a": NODE}, "minProperties": 1},
        {"const": 0} if kind != "allOf" else True,
    ]
    value: Any = "misfit"
    for _ in range(127):
        value = {"a": value}
    begin = time.process_time()
    assert misfit({**NODE, "$defs": {"node": {kind: choices}}}, json.dumps(value)) is not None
    assert time.process_time() - begin < 10  # the library's own explanation takes 2 to the power of 127 steps


def test_a_search_that_takes_too_long_ends_at_what_it_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pointer leads to the value at which the search ran out of time: the misfit is somewhere inside it."""
    monkeypatch.setattr("app.config.schemas.misfits.SECONDS", -1)
    found = misfit(ORDER, '{"id": "one"}')
    assert found == Misfit("", "it does not fit the schema at '#'")


def test_a_pattern_takes_linear_time() -> None:
    """Pattern that makes other engines backtrack for ever answers at once."""
    assert misfit({"pattern": "^(a+)+$"}, json.dumps("a" * 100_000 + "b")) is not None


def test_a_pointer_is_no_longer_than_a_thousand_characters() -> None:
    """Name that is too long for a pointer is left out: the pointer leads to the object that has it."""
    found = misfit({"additionalProperties": {"additionalProperties": False}}, json.dumps({"a": {"b" * 2000: 1}}))
    assert found is not None
    assert found.pointer == "/a"
    found = misfit({"additionalProperties": {"type": "integer"}}, json.dumps({"b" * 2000: ""}))
    assert found is not None
    assert found.pointer == ""
    assert len(found.reason) <= 200


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "not JSON"),
        (b'{"type":', "not JSON"),
        (b"\xff", "the file is not UTF-8"),
        (b'{"type": "object", "type": "array"}', "has the name at '/type' twice"),
        (b'{"maximum": 1e999}', "a number that is too large"),
        (b'{"not": ' * 200 + b"true" + b"}" * 200, "nested more than 128 deep"),
        ([], "must be an object, or true or false"),
        ({"properties": {"a": {"type": "text"}}}, "is not a JSON Schema at '/properties/a/type'"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "another draft"),
        (
            {"$ref": "http://127.0.0.1:9/a.json"},
            "'http://127.0.0.1:9/a.json', which is not in the file",
        ),
        ({"properties": {"a": {"$ref": "https://a.example/b"}}}, "nothing is fetched"),
        ({"$dynamicRef": "https://a.example/b#c"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"$ref": "item.json"}, "refers to 'item.json'"),
        ({"$ref": "#/$defs/missing"}, "leads nowhere"),
        ({"pattern": "(?=a)b"}, "there is no look-around"),
        ({"patternProperties": {"(a)\\1": True}}, "has a pattern that cannot be used at '/patternProperties/(a)"),
        ({"pattern": "(a{1000}){1000}"}, "has a pattern that cannot be used"),
    ],
)
def test_what_is_no_schema_is_refused(document: object, problem: str) -> None:
    """File that is no JSON Schema of this draft, or needs another file, says why it is refused."""
    with pytest.raises(SchemaFileError) as caught:
        schema(document)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        True,
        {},
        b"\xef\xbb\xbf{}",
        {"$schema": "https://json-schema.org/draft/2020-12/schema#"},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$comment": "\u00e9", "x-own": {"$ref": 5}},
    ],
)
def test_what_is_a_schema_is_taken(document: object) -> None:
    """File may be a boolean, begin with a byte order mark, and refer to the schema of schemas."""
    assert misfit(document, "{}") is None


def test_a_schema_survives_pickling() -> None:
    """Schema that was pickled equals its origin, and judges as it does."""
    origin = schema(ORDER)
    copy = pickle.loads(pickle.dumps(origin))  # noqa: S301
    assert copy == origin
    assert hash(copy) == hash(origin)
    assert copy != schema({})
    assert copy.misfit(b"{}") == origin.misfit(b"{}")
    assert (copy.path, copy.digest, copy.document) == (origin.path, origin.digest, ORDER)
