"""Says in plain words what pydantic found."""

from __future__ import annotations

from pydantic_core import ErrorDetails

from app.config.diagnostics import did_you_mean
from app.config.model import known_keys
from app.config.yaml.document import Document

_PLAIN = {
    "missing": "this key is missing: declare at least one channel under it",
    "dict_type": "must be a mapping of channel names to their settings, as in news: {publish: key}",
    "tuple_type": 'must be a list, such as ["*"]',
}

_EXAMPLES = {
    "auth": 'keys: "${PUSH_KEYS:-}"',
    "tokens": 'secret: "${TOKEN_SECRET}"',
    "ask": 'url: "https://app.example/realtime/auth"',
    "limits": "connections: 10000",
    "postgres": "inline: false",
    "history": "size: 1000, ttl: 24h",
}
"""What may be in the mapping that a section has to be."""


def report(error: ErrorDetails, document: Document) -> None:
    """Add one of pydantic's errors to the document's diagnostics."""
    *location, last = error["loc"] or ("",)
    if last == "[key]":
        document.add(location, _message(error), at_key=True)
    elif error["type"] == "extra_forbidden":
        known = known_keys(tuple(location))
        message = f"unknown key{did_you_mean(str(last), known)}; the keys here are {', '.join(known)}"
        document.add((*location, last), message, at_key=True)
    else:
        document.add(error["loc"], _message(error))


def _message(error: ErrorDetails) -> str:
    if error["type"] == "abide":
        return str(error["ctx"]["message"])
    if error["type"] == "model_type":
        return f"must be a mapping of keys to values{_example(*error['loc'])}"
    return _PLAIN.get(error["type"], error["msg"])


def _example(*location: int | str) -> str:
    is_channel = location[:1] in {("channels",), ("defaults",)}
    example = _EXAMPLES.get(str(location[-1]) if location else "", "publish: key" if is_channel else "")
    return f", as in {{{example}}}" if example else ""
