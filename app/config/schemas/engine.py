"""How every schema is compiled."""

from __future__ import annotations

from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions, Registry

BASE = "https://schema.invalid/"
"""The address of a schema that names none itself. No server can have it."""

Document = dict[str, Any] | bool

_REGEX_BYTES = 1024 * 1024
"""The most memory of a compiled pattern."""

_OPTIONS: dict[str, Any] = {
    # The engine that takes linear time, whatever the pattern and the text are.
    "pattern_options": RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES),
    "validate_formats": True,
    "offline": True,  # nothing is fetched, neither over the network nor from the disk
}


def compiled(
    schema: Document | str, *, base: str = BASE, registry: Registry | None = None, mask: str | None = None
) -> Draft202012Validator:
    """Return the validator of a schema, or of its JSON text; ``mask`` stands for the value in what it says.

    ``base`` is what its references are relative to; ``registry`` has the other schemas that it may refer to.

    Raises :class:`jsonschema_rs.ValidationError` if it is no schema, and ValueError if it has too many levels.
    """
    return Draft202012Validator(schema, base_uri=base, registry=registry, mask=mask, **_OPTIONS)
