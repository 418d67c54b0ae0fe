"""Why the server refused, or was not reached, and whether another attempt may help."""

from __future__ import annotations

import contextlib
import email.utils
import http
import os
import re
import time

from .messages import parse
from .waits import LONGEST_WAIT

PASSING = {1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 4429}  # close codes
PASSING_STATUSES = {408, 425, 429}  # and from 500 on
CLOSED = {4400: "malformed", 4401: "unauthorised", 4403: "forbidden", 4404: "channel_removed"}
CLOSED |= {4408: "expired", 4410: "gap", 4422: "schema_mismatch", 4429: "rate_limited"}


class ClientError(Exception):
    """The server refused, or could not be reached in time; ``str()`` and ``detail`` say why.

    ``status`` is the HTTP status or the close code, ``code`` the stable word of docs/codes.md, ``pointer`` the JSON
    pointer to what does not fit a schema, or None. If it ``passes``, another attempt may help after ``wait`` seconds.
    """

    def __init__(
        self, detail: str, *, status: int | None = None, code: str | None = None, passes: bool = False
    ) -> None:
        super().__init__(detail)
        self.detail, self.status, self.code, self.passes, self.wait = detail, status, code, passes, 0.0
        self.pointer: str | None = None


def unreachable(error: Exception, url: str) -> ClientError:
    """Return what it means that a server was not reached."""
    reason = "no answer in time" if isinstance(error, TimeoutError) else plain(error)
    detail = f"cannot reach {url}: {reason}"
    return ClientError(detail, passes=not isinstance(error, ValueError))  # a certificate


def plain(error: Exception) -> str:
    """Return an error in the system's words: asyncio and Python put their own around them."""
    failed = re.compile(r"\[Errno (\d+)\] Connect call failed \([^)]*\)")
    text = failed.sub(lambda found: os.strerror(int(found[1])), str(error))
    return re.sub(r"\[Errno -?\d+\] ", "", text)


def closed(status: int, reason: str) -> ClientError:
    """Return what it means that a connection ended with a close code."""
    detail = f"the connection ended with {status}{reason and f' ({reason})'}"
    return ClientError(detail, status=status, code=CLOSED.get(status), passes=status in PASSING)


def redirected(address: str) -> ClientError:
    """Return what it means that a server sends its clients elsewhere, for example to TLS."""
    return ClientError(f"the server redirects to {address}: use the address of that server")


def refused(status: int, body: bytes, retry_after: str) -> ClientError:
    """Return what an answer of HTTP that is no success means."""
    try:
        problem = parse(body.decode())
        detail, code, pointer = str(problem["detail"]), str(problem["code"]), problem.get("pointer")
    except (ValueError, TypeError, KeyError, RecursionError):
        detail, code, pointer = f"the answer was HTTP status {status}", None, None
    passes = status in PASSING_STATUSES or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    error = ClientError(detail, status=status, code=code, passes=passes)
    seconds = float(retry_after) if re.fullmatch(r"[0-9]{1,9}", retry_after) else 0.0
    with contextlib.suppress(ValueError, OverflowError):
        seconds = seconds or email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    error.pointer, error.wait = pointer, min(max(seconds, 0.0), LONGEST_WAIT)
    return error
