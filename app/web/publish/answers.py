"""The answers to pushes: where a message is, or why it was refused."""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog

from app.core.errors import AbideError, NoRoomError, of_bug
from app.core.message import Published, Record
from app.core.ports import Meter, Reply
from app.web.edge.problems import ProblemResponse, describe_error

_log = structlog.get_logger(__name__)

_NOWHERE = '"position": null, "offset": null, "epoch": null'
"""The place of a message where the backend has no positions."""

_HEADERS = ((b"content-type", b"application/json"),)
_REPLAYED = (*_HEADERS, (b"idempotency-replayed", b"true"))


def stored(record: Record, published: Published, *, repeats: bool) -> Reply:
    """Return the answer to a push of one message that is stored; it ``repeats`` the message of an envelope."""
    place = _place(record.channel, published).encode()
    # An envelope's message has the bytes as they came, not as Python would write them.
    content = b'%b, "message": %b}' % (place, record.data) if repeats else place + b"}"
    return Reply(200, _REPLAYED if published.replayed else _HEADERS, content)


def of_array(results: Sequence[tuple[str, Published] | AbideError], meter: Meter) -> Reply:
    """Return the answer to an array: what became of each item, with the name of its channel if it is stored."""
    items = []
    for result in results:
        if isinstance(result, AbideError):
            meter.refused(result.code)
            items.append(json.dumps(describe_error(result)))
        else:
            items.append(_place(*result) + "}")
    return Reply(200, _HEADERS, f"[{', '.join(items)}]".encode())


def refused(error: Exception, meter: Meter, request_id: str | None) -> Reply:
    """Count a refusal and return its answer. An unexpected error is logged and answered with 500."""
    if not isinstance(error, AbideError) or error.code == AbideError.code:
        _log.error("push_failed", exc_info=error, **({} if request_id is None else {"request_id": request_id}))
        meter.failed("request")
        error = of_bug()
    meter.refused(error.code)
    if isinstance(error, NoRoomError):
        meter.limited("bodies_held")
    problem = ProblemResponse.of(error)
    headers = tuple([header for header in problem.raw_headers if header[0] != b"content-length"])
    return Reply(problem.status_code, headers, bytes(problem.body))


def _place(name: str, published: Published) -> str:
    """Return the members that say where a message is, as an object without its end."""
    epoch, offset = published.position
    # Written by hand, because names and epochs have no character that JSON escapes.
    if not epoch:
        return f'{{"channel": "{name}", {_NOWHERE}'
    return f'{{"channel": "{name}", "position": "{epoch}:{offset}", "offset": {offset}, "epoch": "{epoch}"'
