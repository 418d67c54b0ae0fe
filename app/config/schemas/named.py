"""The schemas that the channels of a file name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from app.config import patterns
from app.config.diagnostics import quoted
from app.config.schemas.files import SchemaFiles
from app.config.values import schema_path
from app.config.yaml.document import Document, Interpolated

if TYPE_CHECKING:
    from app.config.schemas.json_schema import JsonSchema


def named_schemas(document: Document, files: SchemaFiles) -> dict[str, JsonSchema]:
    """Return the schemas by path, and add a diagnostic to each ``schema`` whose file cannot be used."""
    found: dict[str, JsonSchema | str] = {}
    for channel, path in _paths(document.data):
        name = str(path)
        if name not in found:
            found[name] = _schema(name, files)
        problem = found[name]
        if isinstance(problem, str):
            shown = "the file" if isinstance(path, Interpolated) else quoted(path)
            document.add(("channels", channel, "schema"), f"{shown} {problem}")
    return {path: schema for path, schema in found.items() if not isinstance(schema, str)}


def _paths(data: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 — whatever the file holds
    """Yield each channel with the path of its schema. What is no path is reported with the other values."""
    channels = data.get("channels") if isinstance(data, dict) else None
    for channel, policy in channels.items() if isinstance(channels, dict) else ():
        path = policy.get("schema") if isinstance(policy, dict) else None
        if isinstance(path, str) and patterns.fits(schema_path.PATTERN, path):
            yield channel, path


def _schema(path: str, files: SchemaFiles) -> JsonSchema | str:
    """Return the schema in a file, or why there is none."""
    content = files.read(path)
    if isinstance(content, str):
        return content
    # Where no channel has a schema, jsonschema-rs takes neither time nor memory.
    from app.config.schemas.json_schema import JsonSchema, SchemaFileError  # noqa: PLC0415

    try:
        return JsonSchema(path, content)
    except SchemaFileError as error:
        return str(error)
