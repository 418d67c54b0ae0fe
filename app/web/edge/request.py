"""The headers of a request by name, and its query parameters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from starlette.types import Scope

from app.core.errors import MalformedError

MAX_PARAMETERS = 100
"""The most parameters of a query."""

_MOST_REMEMBERED = 4096
"""The most characters of headers that are remembered: no server remembers a longer request head."""

_SINGLE = (
    "authorization", "content-encoding", "content-length", "content-type", "idempotency-key", "last-event-id", "origin",
)  # fmt: skip
"""Headers that this server reads, and that may have only one value."""

TICKET = "ticket"
"""The query parameter for a ticket."""

_ONE_PLAIN = re.compile(rb"([a-z]+)=([A-Za-z0-9._:~-]*)")
"""A query of one parameter that has no character with another meaning."""

_PARAMETERS = ("since", "last", "limit", "wait", "heartbeat", TICKET)
"""Query parameters that this server reads."""


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return header values by lower-case name, without blanks around them; the first of a repeated header.

    Raises :class:`MalformedError` if a header of :data:`_SINGLE` appears twice with different values.
    """
    found = {name.decode("latin-1"): value.decode("latin-1").strip(" \t") for name, value in reversed(headers)}
    if len(found) != len(headers):
        _check_single(headers, found)
    return found


def are_short(headers: Mapping[str, str]) -> bool:
    """Whether headers may be remembered: some thousand of any size would take all memory."""
    return sum(map(len, headers)) + sum(map(len, headers.values())) <= _MOST_REMEMBERED


def query_of(query: bytes) -> dict[str, str]:
    """Return the query parameters; raise :class:`MalformedError` for too many, or if one of ours appears twice."""
    if not query:
        return {}
    plain = _ONE_PLAIN.fullmatch(query)
    if plain is not None:  # as most have it: it needs no parser
        return {plain[1].decode(): plain[2].decode()}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        msg = f"the query has more than {MAX_PARAMETERS} parameters"
        raise MalformedError(msg) from None
    counts = Counter(name for name, _ in pairs)
    for name in _PARAMETERS:
        if counts[name] > 1:
            msg = f"the parameter {name!r} appears twice in the query"
            raise MalformedError(msg)
    return dict(pairs)


def _check_single(headers: Sequence[tuple[bytes, bytes]], found: Mapping[str, str]) -> None:
    for name in _SINGLE:
        raw = name.encode()
        if any(value.decode("latin-1").strip(" \t") != found[name] for other, value in headers if other == raw):
            msg = f"the header {name!r} appears twice with different values"
            raise MalformedError(msg)


def address(scope: Scope) -> str | None:
    """Return the client's address, as a trusted proxy says it; None if it is unknown."""
    client = scope.get("client")
    return client[0] if client else None
