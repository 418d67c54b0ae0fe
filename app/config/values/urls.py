"""The other servers that are asked: URLs, and what they get."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from app.config.patterns import BLANKS, fits, whole
from app.config.values.fields import refuse, show, text_schema
from app.config.yaml.document import Unquoted

_URL = whole(
    r"https://[A-Za-z0-9.:\[\]-]+(?:/[!-\"$-~]*)?|http://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]+)?(?:/[!-\"$-~]*)?"
)


def _url(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or isinstance(value, Unquoted) or not fits(_URL, value.strip(BLANKS)):
        refuse(f"write an https:// URL without a user and a fragment (http:// only on loopback), not {show(value)}")
    return value.strip(BLANKS)


Url = Annotated[
    str | None,
    BeforeValidator(_url),
    WithJsonSchema({"anyOf": [{"type": "null"}, {"enum": [""]}, *text_schema(_URL)["anyOf"]]}),
]
