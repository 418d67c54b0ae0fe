"""The JSON Schema (draft 2020-12) in one file, which judges messages."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from jsonschema_rs import ValidationError, ValidationErrorKind

from app.config.schemas.engine import BASE, Document, compiled
from app.config.schemas.misfits import Misfits, pointer
from app.config.schemas.reader import RepeatedNameError, decode
from app.core.data import check
from app.core.data import decode as decode_text
from app.core.errors import MalformedError
from app.core.schema import Misfit

DRAFT = "https://json-schema.org/draft/2020-12/schema"
"""What ``$schema`` may say."""

_LONGEST = 300
"""The most characters of what jsonschema-rs says: it repeats parts of the schema."""

_ELSEWHERE = re.compile(r"Resource '(?P<address>.*)' is not present in a registry", re.DOTALL)


class SchemaFileError(Exception):
    """The content of a schema file is no schema; ``str()`` says why, to go on after its path."""


class JsonSchema:
    """The schema in one file. A :class:`~app.core.schema.Schema`."""

    def __init__(self, path: str, content: bytes) -> None:
        """Compile the content of the file at ``path``; raise :class:`SchemaFileError`."""
        self.path = path
        self.digest = hashlib.sha256(content).hexdigest()[:12]
        self._content = content
        text = _decode(content)
        self.document = _read(text)
        try:
            self._validator = compiled(text)
        except ValidationError as error:
            raise SchemaFileError(_finding(error)[:_LONGEST]) from None
        self._misfits = Misfits(self.document)

    def misfit(self, data: bytes) -> Misfit | None:
        """Return what of a message does not fit; None if all of it does."""
        try:
            value = decode(data.decode())
        except RepeatedNameError as error:
            return Misfit(pointer(error.steps), "its object has this name twice, and readers take different ones")
        try:
            fits = self._validator.is_valid(value)
        except UnicodeEncodeError:
            value = _with_whole_characters(value)
            fits = self._validator.is_valid(value)
        return None if fits else self._misfits.find(value)

    def __reduce__(self) -> tuple[type[JsonSchema], tuple[str, bytes]]:
        """Pickle the content: what was compiled belongs to this process."""
        return JsonSchema, (self.path, self._content)

    def __eq__(self, other: object) -> bool:
        """Whether it has the same content in a file of the same name."""
        return isinstance(other, JsonSchema) and (self.path, self._content) == (other.path, other._content)

    def __hash__(self) -> int:
        """Return the hash that equal schemas share."""
        return hash((self.path, self._content))


def _decode(content: bytes) -> str:
    try:
        text = decode_text(content.removeprefix(b"\xef\xbb\xbf"))
        check(text)
    except MalformedError as error:
        msg = f"cannot be used: {error}".replace("the body is", "the file is")
        raise SchemaFileError(msg) from None
    return text


def _read(text: str) -> Document:
    try:
        decode(text)
        document = json.loads(text)
        json.dumps(document, allow_nan=False)
    except RepeatedNameError as error:
        msg = f"cannot be used: its object has the name at {pointer(error.steps)!r} twice"
        raise SchemaFileError(msg) from None
    except ValueError:
        msg = "cannot be used: it has a number that is too large"
        raise SchemaFileError(msg) from None
    if not isinstance(document, dict | bool):
        msg = "is not a JSON Schema: it must be an object, or true or false"
        raise SchemaFileError(msg)
    draft = document.get("$schema", DRAFT) if isinstance(document, dict) else DRAFT
    if draft not in {DRAFT, f"{DRAFT}#"}:
        msg = f"is written for another draft: '$schema' must be {DRAFT!r}, or left out"
        raise SchemaFileError(msg)
    return document


def _finding(error: ValidationError) -> str:
    """Return what is wrong with a schema, to go on after its path."""
    elsewhere = _ELSEWHERE.match(error.message)
    if elsewhere:
        address = elsewhere["address"].removeprefix(BASE)
        return f"refers to {address!r}, which is not in the file: nothing is fetched, so copy it under '$defs'"
    if isinstance(error.kind, ValidationErrorKind.Referencing):
        return f"has a reference that leads nowhere: {error.message}"
    place = f"at {pointer(tuple(error.instance_path))!r}: {error.message}"
    if isinstance(error.kind, ValidationErrorKind.Format) and error.kind.format == "regex":
        return f"has a pattern that cannot be used {place} (there is no look-around and no back-reference)"
    return f"is not a JSON Schema {place}"


def _with_whole_characters(value: Any) -> Any:  # noqa: ANN401 — any JSON
    """Return a value in which each half of a surrogate pair, which has no UTF-8, is another character."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_with_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_with_whole_characters(name): _with_whole_characters(item) for name, item in value.items()}
    return value
