"""The JSON Schema of the YAML file, for editors: what the models take, with the docstrings under their keys."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from app.config import model


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the YAML file, for editors. It accepts exactly what the loader accepts."""
    schema = model.File.model_json_schema(schema_generator=_Schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "channels.yaml",
        "type": "object",
    }


class _Schema(GenerateJsonSchema):
    """Leaves out the titles that pydantic derives from the keys, and describes a key by the docstring under it.

    Were pydantic to find the docstrings, each start of a server or command would look for them.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002 — pydantic's signature
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        section: type[BaseModel] = schema["cls"]
        texts = {name: text for base in reversed(section.__mro__) for name, text in _texts().get(base.__name__, ())}
        for name, field in section.model_fields.items():
            key = made["properties"][field.alias or name]
            its_section = self.get_schema_from_definitions(key["$ref"]) if "$ref" in key else None
            if its_section is None or its_section["description"] != texts[name]:
                key.setdefault("description", texts[name])
        return made


@functools.cache
def _texts() -> dict[str, list[tuple[str, str]]]:
    """Return the keys of each section of the model with the docstrings under them."""
    sections = [part for part in ast.parse(inspect.getsource(model)).body if isinstance(part, ast.ClassDef)]
    return {section.name: list(_docstrings(section)) for section in sections}


def _docstrings(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for pair in pairwise(section.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
