"""Request heads of HTTP/1.1 without I/O: what their lines say, strictly by RFC 9112.

If a proxy and this server read the same bytes differently, a client can smuggle a request past the proxy. So
everything ambiguous is refused, and nothing is repaired.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

MAX_HEAD = 64 * 1024
"""The longest request head, in bytes."""

MAX_TARGET = 8 * 1024
"""The longest target of a request, in bytes."""

MAX_FIELDS = 100
"""The most header lines of one request."""

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
_BEGINNING = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r]")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)\r\n")
_WHOLE = re.compile(_LINE.pattern + rb"(?:" + _FIELD.pattern.replace(b"(", b"(?:") + rb")*\r\n")
_VERSIONS = {b"1.0": "1.0", b"1.1": "1.1"}
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE)
_HOST = re.compile(
    rb"(?:\[(?=[^\]]*:[^\]]*:)[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]{1,5}))?"
)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HIGHEST_PORT = 65535
_JUDGED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"),
)
_LINE_ROOM = 64
"""Bytes of a request line beside its target."""


class BadRequestError(Exception):
    """The bytes are not a request that is served; ``str(error)`` says why, in ASCII. The connection must close."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class Target(NamedTuple):
    """What a request asks for; ``path`` is decoded."""

    path: str
    raw_path: bytes
    query: bytes


class RequestHead(NamedTuple):
    """What one request head says.

    ``headers`` are in the order of the request, names in lower case, values without blanks around them.
    """

    method: bytes
    target: Target
    version: str
    """``1.0`` or ``1.1``."""
    headers: Sequence[tuple[bytes, bytes]]
    length: int | None
    """Bytes of the body; None if it comes in chunks."""
    keep_alive: bool
    """Whether another request may follow on the connection."""
    awaits_continue: bool
    """Whether the client waits to be told that its body is wanted."""
    asks_for_websocket: bool


def parse(data: bytes) -> RequestHead | None:
    """Return what a whole request head says; None if :class:`RequestHeadReader` has to say what is wrong with it.

    Raises :class:`BadRequestError`. It accepts what that accepts, and is faster: it takes all lines in one step.
    """
    match = _WHOLE.fullmatch(data)
    if match is None or len(match[2]) > MAX_TARGET or match[3] not in _VERSIONS:
        return None
    fields = [(name.lower(), value.strip(b" \t")) for name, value in _FIELD.findall(data, match.end(3) + 2)]
    return None if len(fields) > MAX_FIELDS else _head(match[1], match[2], _VERSIONS[match[3]], fields)


class RequestHeadReader:
    """Reads a request head line by line, each with its line end; the empty line completes it.

    An error is raised at the line that has it, so it does not depend on how the bytes were cut.
    """

    __slots__ = ("_fields", "_line", "_size")

    def __init__(self) -> None:
        self._line: tuple[bytes, bytes, str] | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._size = 0

    @property
    def has_begun(self) -> bool:
        """Whether the request line has come."""
        return self._line is not None

    def check_unfinished(self, line: bytes) -> None:
        """Raise :class:`BadRequestError` if a line without its end is wrong or too long already."""
        size = len(line)
        if self._line is None:
            if line and not _BEGINNING.match(line):
                raise _no_request_line()
            if size > MAX_TARGET + _LINE_ROOM:
                raise _too_long()
        if self._size + size > MAX_HEAD:
            raise _too_large()

    def take(self, line: bytes) -> RequestHead | None:
        """Take one line; return the request head at its end. Raises :class:`BadRequestError`."""
        self.check_unfinished(line)
        self._size += len(line)
        if self._line is None:
            self._line = _request_line(line)
        elif line == b"\r\n":
            return _head(*self._line, self._fields)
        else:
            self._fields.append(field(line))
            if len(self._fields) > MAX_FIELDS:
                msg = f"The request has more than {MAX_FIELDS} header lines."
                raise BadRequestError(msg, 431)
        return None


def field(line: bytes) -> tuple[bytes, bytes]:
    """Return the name, in lower case, and the value of a header line. Raises :class:`BadRequestError`."""
    match = _FIELD.fullmatch(line)
    if match is None:
        msg = "A header line is not of the form 'name: value'."
        raise BadRequestError(msg)
    return match[1].lower(), match[2].strip(b" \t")


def _request_line(line: bytes) -> tuple[bytes, bytes, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise _no_request_line()
    if len(match[2]) > MAX_TARGET:
        raise _too_long()
    if match[3] not in _VERSIONS:
        msg = "This server speaks HTTP/1.1 and HTTP/1.0."
        raise BadRequestError(msg, 505)
    return match[1], match[2], _VERSIONS[match[3]]


def _head(method: bytes, url: bytes, version: str, fields: list[tuple[bytes, bytes]]) -> RequestHead:
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in _JUDGED:
            found.setdefault(name, []).append(value)
    target, authority = _target(method, url)
    _check_host(found.get(b"host", []), version)
    if authority is not None:  # it overrides Host (RFC 9112 §3.2.2)
        fields = [(b"host", authority), *(header for header in fields if header[0] != b"host")]
    length = _body_length(found, version)
    connection = _list(found.get(b"connection"))
    return RequestHead(
        method,
        target,
        version,
        fields,
        length,
        keep_alive=version == "1.1" and b"close" not in connection,
        awaits_continue=_expects_continue(found.get(b"expect"), version) and length != 0,
        asks_for_websocket=b"upgrade" in connection and b"websocket" in _list(found.get(b"upgrade")),
    )


def _target(method: bytes, url: bytes) -> tuple[Target, bytes | None]:
    """Return the target, and the authority that an absolute one names."""
    if method == b"CONNECT":
        msg = "This server is not a proxy: CONNECT is not available."
        raise BadRequestError(msg, 501)
    if b"#" in url:
        msg = "The request's target has a fragment."
        raise BadRequestError(msg)
    if url.startswith(b"/"):
        raw_path, _, query = url.partition(b"?")
        return _decoded(raw_path, query), None
    if url == b"*" and method == b"OPTIONS":
        return Target("*", b"*", b""), None
    match = _ABSOLUTE.fullmatch(url)
    if match is None or not _is_host(match[1]):
        msg = "The request's target is neither a path nor a URL."
        raise BadRequestError(msg)
    return _decoded(match[2] or b"/", match[3] or b""), match[1]


def _decoded(raw_path: bytes, query: bytes) -> Target:
    path = raw_path.decode("ascii")
    return Target(unquote(path) if "%" in path else path, raw_path, query)


def _check_host(hosts: list[bytes], version: str) -> None:
    if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_is_host, hosts)):
        msg = "The request needs one Host header with a host in it."
        raise BadRequestError(msg)


def _is_host(text: bytes) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and int(match[1] or 0) <= _HIGHEST_PORT


def _body_length(found: dict[bytes, list[bytes]], version: str) -> int | None:
    """Return the bytes of the body, None for chunks; only these two headers decide (RFC 9112 §6.3)."""
    codings, lengths = found.get(b"transfer-encoding"), found.get(b"content-length")
    if codings is not None:
        if version == "1.0" or lengths is not None:
            msg = "Transfer-Encoding needs HTTP/1.1, and excludes Content-Length."
            raise BadRequestError(msg)
        if [coding.lower() for coding in codings] != [b"chunked"]:
            msg = "The only Transfer-Encoding that this server takes is 'chunked'."
            raise BadRequestError(msg, 501)
        return None
    if lengths is None:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        msg = "Content-Length is not one number of bytes."
        raise BadRequestError(msg)
    return int(lengths[0])


def _expects_continue(values: list[bytes] | None, version: str) -> bool:
    expectations = _list(values)
    if version == "1.0" or not expectations:
        return False
    if expectations != (b"100-continue",):
        msg = "The only expectation that this server meets is '100-continue'."
        raise BadRequestError(msg, 417)
    return True


def _list(values: list[bytes] | None) -> tuple[bytes, ...]:
    """Return the items of a header that is a list, in lower case."""
    if not values:
        return ()
    value = b",".join(values)
    return _known_items(value) if len(value) <= _SHORT else _items(value)


def _items(value: bytes) -> tuple[bytes, ...]:
    return tuple([item for item in (part.strip(b" \t").lower() for part in value.split(b",")) if item])


_SHORT = 64
_known_items = lru_cache(maxsize=256)(_items)
"""Remembers the items of values of at most :data:`_SHORT` bytes: few different ones come, again and again."""


def _no_request_line() -> BadRequestError:
    return BadRequestError("The first line is not of the form 'METHOD /path HTTP/1.1'.")


def _too_long() -> BadRequestError:
    return BadRequestError(f"The request's target has more than {MAX_TARGET} bytes.", 414)


def _too_large() -> BadRequestError:
    return BadRequestError(f"The request head has more than {MAX_HEAD} bytes.", 431)
