"""The schemas of channels as components of a document, with references that work there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from app.core import schema
from app.core.channel import Channel
from app.web.documents.schemas import DATA, Schema

_MAPPINGS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords that map names to schemas."""

_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords that have plain data."""

_OF_OPENAPI = "discriminator"
"""A keyword that pydantic adds: it means nothing to a validator, and its references do not move."""


class EmbeddedSchemas:
    """The schemas of these channels, one for each file."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._names: dict[schema.Schema, str] = {}
        for channel in channels:
            if channel.schema is not None and channel.schema not in self._names:
                self._names[channel.schema] = self._free(channel.schema.path)

    def components(self) -> dict[str, Any]:
        """Return what goes under ``components/schemas``."""
        return {name: _embedded(_as_object(schema), _reference(name)) for schema, name in self._names.items()}

    def data(self, channel: Channel) -> Schema:
        """Return the schema of a channel's messages."""
        return DATA if channel.schema is None else {"$ref": _reference(self._names[channel.schema])}

    def _free(self, path: str) -> str:
        """Return a name for the schema in this file: ``message-order``, or ``message-order-2`` if that is taken."""
        name = "message-" + re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(path).stem)
        taken, number = set(self._names.values()), 1
        while name in taken:
            number += 1
            name = f"{name.removesuffix(f'-{number - 1}')}-{number}"
        return name


def _reference(name: str) -> str:
    return f"#/components/schemas/{name}"


def _as_object(schema: schema.Schema) -> dict[str, Any]:
    """Return a schema as an object: AsyncAPI has no schemas that are ``true`` or ``false``."""
    if isinstance(schema.document, bool):
        return {} if schema.document else {"not": {}}
    return schema.document


def _embedded(document: dict[str, Any], root: str) -> dict[str, Any]:
    """Return a schema whose references begin at ``root`` instead of at its own beginning."""
    own = str(document.get("$id", ""))
    members = {keyword: value for keyword, value in document.items() if keyword not in {"$id", "$schema"}}
    moved: dict[str, Any] = _moved(members, own, root)
    return moved


def _moved(value: Any, own: str, root: str) -> Any:  # noqa: ANN401 — part of a JSON Schema
    if isinstance(value, list):
        return [_moved(item, own, root) for item in value]
    if not isinstance(value, dict) or "$id" in value:  # what has an address of its own keeps its references
        return value
    moved: dict[str, Any] = {}
    for keyword, inner in value.items():
        if keyword == _OF_OPENAPI:
            continue
        if keyword == "$ref" and isinstance(inner, str):
            moved[keyword] = _moved_reference(inner, own, root)
        elif keyword in _MAPPINGS and isinstance(inner, dict):
            moved[keyword] = {name: _moved(each, own, root) for name, each in inner.items()}
        else:
            moved[keyword] = inner if keyword in _DATA else _moved(inner, own, root)
    return moved


def _moved_reference(reference: str, own: str, root: str) -> str:
    inside = reference.removeprefix(own) if own else reference
    return root + inside[1:] if inside == "#" or inside.startswith("#/") else reference
