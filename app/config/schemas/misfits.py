"""Finds what of a message does not fit a schema, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urljoin

from jsonschema_rs import Draft202012Validator, Registry, ValidationError

from app.config.schemas.engine import BASE, Document, compiled
from app.core.schema import Misfit

SECONDS = 0.05
"""How long a search takes at most: after that, the pointer leads to what has the misfit somewhere inside."""

LONGEST_POINTER = 1000
"""The most characters of a pointer: a name that does not fit in is left out, with all that follows."""

_LONGEST_REASON = 200

_ELSEWHERE = f"{BASE}part"
"""The address of a schema that only refers to a part of another one."""

_OF_THE_VALUE = frozenset(
    (
        "type", "enum", "const", "required", "minProperties", "maxProperties", "dependentRequired", "propertyNames",
        "minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "format",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    )
)  # fmt: skip
"""Keywords that need no other part of the schema."""

_OF_SEVERAL = (
    "anyOf", "oneOf", "not", "contains", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "$ref",
    "$dynamicRef",
)  # fmt: skip
"""Keywords whose parts the search does not enter: no single part has to fit."""

Steps = tuple[str | int, ...]
Part = tuple[str, str | int | None, Any]
"""A part of the schema as a pointer, the name or index of a value inside the present one, and that value.
None means the present value itself."""


def pointer(steps: Steps) -> str:
    """Return the JSON pointer of a value, from the names and indexes that lead to it."""
    written = ""
    for step in steps:
        if len(written) + len(str(step)) >= LONGEST_POINTER:
            break
        written += f"/{_escaped(str(step))}"
    return written.encode(errors="replace").decode()  # half of a surrogate pair has no UTF-8


class Misfits:
    """Finds the misfits of one schema, by judging ever smaller parts of a message by ever smaller parts of the schema.

    jsonschema-rs can explain a misfit itself. But it explains every branch of every ``anyOf``: where a schema refers to
    itself, a message of a hundred bytes takes it hours. Its verdict alone takes linear time.
    """

    def __init__(self, document: Document) -> None:
        """Take a schema that could be compiled."""
        self._document = document
        identifier = document.get("$id", "") if isinstance(document, dict) else ""
        self._base = urljoin(BASE, identifier)
        self._registry = Registry([(self._base, document)])
        self._validators: dict[str, Draft202012Validator | None] = {}

    def find(self, value: object) -> Misfit:
        """Return what does not fit of a value that does not fit as a whole."""
        deadline = time.monotonic() + SECONDS
        steps: Steps = ()
        place = ""
        seen = {place}
        """The parts of the schema that the present value was judged by."""
        while (found := self._next(place, value, seen, deadline)) is not None:
            place, step, value = found
            if step is not None:
                steps, seen = (*steps, step), set()
            seen.add(place)
        return Misfit(pointer(steps), self._reason(place, value))

    def _next(self, place: str, value: object, seen: set[str], deadline: float) -> Part | None:
        """Return the first part that does not fit; None if there is none, or no more time to look for it."""
        for part, step, inner in self._parts(place, value):
            if time.monotonic() > deadline:
                return None
            if (step is not None or part not in seen) and not self._fits(part, inner):
                return part, step, inner
        return None

    def _parts(self, place: str, value: object) -> Iterator[Part]:
        """Yield what must fit so that ``value`` fits the schema at ``place``."""
        schema = self._at(place)
        if not isinstance(schema, dict) or (place and "$id" in schema):  # there, references begin elsewhere
            return
        reference = schema.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            yield unquote(reference[1:]), None, value
        for index in range(len(schema.get("allOf", ()))):
            yield f"{place}/allOf/{index}", None, value
        if "if" in schema:
            branch = "then" if self._fits(f"{place}/if", value) else "else"
            if branch in schema:
                yield f"{place}/{branch}", None, value
        if isinstance(value, dict):
            yield from self._members(place, schema, value)
        elif isinstance(value, list):
            yield from _items(place, schema, value)

    def _members(self, place: str, schema: dict[str, Any], value: dict[str, Any]) -> Iterator[Part]:
        for name in schema.get("dependentSchemas", ()):
            if name in value:
                yield f"{place}/dependentSchemas/{_escaped(name)}", None, value
        properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        others = schema.get("additionalProperties") not in (None, True, False)
        for name, member in value.items():
            parts = [f"properties/{_escaped(name)}"] if name in properties else []
            parts += [f"patternProperties/{_escaped(each)}" for each in patterns if self._matches(each, name)]
            if not parts and others:
                parts = ["additionalProperties"]
            for part in parts:
                yield f"{place}/{part}", name, member

    def _reason(self, place: str, value: object) -> str:
        """Return why a value does not fit the schema at ``place``, although every part of it does."""
        schema = self._at(place)
        if not isinstance(schema, dict):
            return "nothing may be here"
        plain = {keyword: schema[keyword] for keyword in schema if keyword in _OF_THE_VALUE}
        if schema.get("additionalProperties") is False:
            plain["additionalProperties"] = False
            for keyword in ("properties", "patternProperties"):
                plain[keyword] = dict.fromkeys(schema.get(keyword, ()), True)
        try:
            compiled(plain, mask="it").validate(value)
        except ValidationError as error:
            return error.message[:_LONGEST_REASON]
        except (ValueError, UnicodeEncodeError):
            pass
        keyword = next((each for each in _OF_SEVERAL if each in schema), "")
        return f"it does not fit the schema at '#{place}{keyword and '/' + keyword}'"

    def _at(self, place: str) -> Any:  # noqa: ANN401 — a schema, or something else where a reference leads astray
        found: Any = self._document
        for escaped in place.split("/")[1:]:
            step = escaped.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, TypeError, ValueError):
                return None
        return found

    def _fits(self, place: str, value: object) -> bool:
        """Whether a value fits the schema at ``place``; true if that cannot be judged by itself."""
        if place not in self._validators:
            reference = {"$ref": f"{self._base}#{quote(place, safe='/~')}"}
            try:
                self._validators[place] = compiled(reference, base=_ELSEWHERE, registry=self._registry)
            except (ValidationError, ValueError):
                self._validators[place] = None
        validator = self._validators[place]
        try:
            return validator is None or validator.is_valid(value)
        except UnicodeEncodeError:
            return True

    def _matches(self, pattern: str, name: str) -> bool:
        key = f" {pattern}"  # no place begins with a blank
        if key not in self._validators:
            self._validators[key] = compiled({"pattern": pattern})
        validator = self._validators[key]
        return validator is not None and validator.is_valid(name)


def _items(place: str, schema: dict[str, Any], value: list[Any]) -> Iterator[Part]:
    first = len(schema.get("prefixItems", ()))
    for index, item in enumerate(value):
        if index < first:
            yield f"{place}/prefixItems/{index}", index, item
        elif "items" in schema:
            yield f"{place}/items", index, item


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")
