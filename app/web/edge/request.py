"""What a request says: its headers by name, and its query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from starlette.types import Scope

from app.core.errors import MalformedError

MAX_PARAMETERS = 100
"""Parameters of a query, at most."""

_SINGLE = (
    "authorization", "content-encoding", "content-length", "content-type", "idempotency-key", "last-event-id", "origin",
)  # fmt: skip
"""Headers that are used here, and mean one thing."""

_PARAMETERS = ("since", "last", "limit", "wait", "heartbeat")
"""Parameters that are used here."""


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the values by names in lower case, without blanks around them; of those that appear twice, the first.

    Raises :class:`MalformedError` where one that is used here appears twice with two values.
    """
    found = {name.decode("latin-1"): value.decode("latin-1").strip(" \t") for name, value in reversed(headers)}
    if len(found) != len(headers):
        _check_single(headers, found)
    return found


def query_of(scope: Scope) -> dict[str, str]:
    """Return the parameters of the query; raise :class:`MalformedError` for too many, and for one of ours twice."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS
        )
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
            msg = f"the header {name!r} appears twice, with two values"
            raise MalformedError(msg)
