"""The documents of a server whose backend keeps no messages: it has no positions, so they are null."""

from __future__ import annotations

from typing import Any

from app.web.documents.lazy_document import Object

_NULL = frozenset({"position", "offset", "epoch", "first", "last", "after", "next"})
"""The members that are null, wherever an object has them. Queries have "last", too, which stays as it is."""


def without_positions(document: Object) -> Object:
    """Return the document with null among the types of each position, and of what is a part of one."""
    return {name: _rewritten(value) for name, value in document.items()}


def _rewritten(value: Any) -> Any:  # noqa: ANN401 — JSON
    if isinstance(value, list):
        return [_rewritten(item) for item in value]
    if not isinstance(value, dict):
        return value
    rewritten = {name: _rewritten(member) for name, member in value.items()}
    members = value.get("properties")
    if isinstance(members, dict) and "since" not in members:
        rewritten["properties"] |= {name: _or_null(members[name]) for name in _NULL & members.keys()}
    return rewritten


def _or_null(schema: Any) -> Any:  # noqa: ANN401 — JSON
    kind = schema.get("type")
    return {**schema, "type": [kind, "null"]} if isinstance(kind, str) else schema
