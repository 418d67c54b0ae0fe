"""The reader of requests: one reading of a byte stream, however it is cut; tests/server/corpus has the many cases."""

from __future__ import annotations

import pytest

from app.wire.request_head import MAX_FIELDS, MAX_HEAD, MAX_TARGET, BadRequestError, RequestHead
from app.wire.request_reader import MAX_FRAMING, RequestReader

HEAD = b"POST /push HTTP/1.1\r\nHost: abide\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def read(reader: RequestReader) -> tuple[RequestHead, bytes]:
    """Return the next request, all of which has come."""
    head = reader.head()
    assert head is not None
    body = b""
    while not reader.is_at_head:
        body += reader.body()
        assert reader.has_more or reader.is_at_head
    return head, body


def refusal(data: bytes) -> int:
    """Return the status with which the bytes are refused."""
    reader = RequestReader()
    reader.feed(data)
    with pytest.raises(BadRequestError) as caught:
        read_all(reader)
    return caught.value.status


def read_all(reader: RequestReader) -> None:
    """Read until nothing more comes."""
    while reader.head() is not None:
        while not reader.is_at_head and (reader.body() or reader.has_more):
            pass


def test_requests_that_come_together_are_read_one_after_the_other() -> None:
    """Reader leaves what is behind a request where it is, whatever the request's framing and upgrade."""
    first = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    reader = RequestReader()
    reader.feed(first + CHUNKED + b"2;x=y\r\nde\r\n0\r\nX-Trailer: yes\r\n\r\n" + HEAD + b"\r\n")
    assert [read(reader)[1] for _ in range(3)] == [b"abc", b"de", b""]
    assert reader.head() is None
    assert reader.size == 0


def test_trailers_are_no_headers() -> None:
    """Reader drops a trailer, and refuses one that would say who asks or where a message ends."""
    reader = RequestReader()
    reader.feed(CHUNKED + b"0\r\nX-Trailer: yes\r\n\r\n")
    head, _ = read(reader)
    assert [name for name, _ in head.headers] == [b"host", b"transfer-encoding"]
    for name in (b"Authorization", b"content-length", b"X-Forwarded-For", b"Idempotency-Key"):
        assert refusal(CHUNKED + b"0\r\n" + name + b": 1\r\n\r\n") == 400


def test_an_absolute_target_goes_before_the_host() -> None:
    """Reader takes the host from a target that is a URL, as RFC 9112 §3.2.2 says."""
    reader = RequestReader()
    reader.feed(b"GET http://one:80/a%20b?c HTTP/1.1\r\nHost: two\r\n\r\n")
    head, _ = read(reader)
    assert head.target == ("/a b", b"/a%20b", b"c")
    assert head.headers == [(b"host", b"one:80")]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * MAX_TARGET + b" HTTP/1.1\r\n", 414),
        (b"GET /" + b"a" * 2 * MAX_TARGET, 414),
        (HEAD + b"X: 1\r\n" * MAX_FIELDS, 431),
        (HEAD + b"X: " + b"x" * MAX_HEAD, 431),
        (CHUNKED + b"1;" + b"x" * (MAX_FRAMING + 99), 431),
        (CHUNKED + b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n" * 4000, 431),
        (CHUNKED + b"0\r\n" + b"X: " + b"x" * (MAX_FRAMING + 99), 431),
        (CHUNKED + b"0\r\n" + b"X: 1\r\n" * MAX_FRAMING, 431),
    ],
    ids=[
        "target", "unfinished target", "headers", "unfinished header", "unfinished extension", "extensions",
        "unfinished trailer", "trailers",
    ],
)  # fmt: skip
def test_what_surrounds_a_body_is_bounded(data: bytes, status: int) -> None:
    """Reader refuses more than a bound of target, head, chunk extensions and trailers, complete or not."""
    assert refusal(data) == status


def test_a_body_that_ends_with_the_last_step_of_a_call_is_complete() -> None:
    """Reader has nothing more to read of a body that took just as many steps as one call takes."""
    reader = RequestReader()
    reader.feed(CHUNKED + b"1\r\na\r\n" * 32 + b"0\r\nX: 1\r\nY: 2\r\n\r\n")
    assert read(reader)[1] == b"a" * 32
    assert not reader.has_more
    reader.feed(HEAD + b"Content-Length: 5\r\n\r\nab")
    assert reader.head() is not None
    assert reader.body() == b"ab"
    assert not reader.has_more


def test_one_call_reads_a_bounded_number_of_chunks() -> None:
    """Reader stops in the middle of thousands of chunks, and says that there are more."""
    reader = RequestReader()
    reader.feed(CHUNKED + b"1\r\na\r\n" * 10_000)
    assert reader.head() is not None
    assert len(reader.body()) < 1000
    assert reader.has_more
