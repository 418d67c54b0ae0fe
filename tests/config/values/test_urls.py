"""The servers that are asked: which URLs, headers and timeouts the file may have."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.config.values.urls import HeaderName, Timeout, Url

URL: TypeAdapter[Any] = TypeAdapter(Url)
HEADER: TypeAdapter[Any] = TypeAdapter(HeaderName)
TIMEOUT: TypeAdapter[Any] = TypeAdapter(Timeout)
SCHEMAS = {id(kind): jsonschema_rs.validator_for(kind.json_schema()) for kind in (URL, HEADER, TIMEOUT)}


def refusal(kind: TypeAdapter[Any], value: object) -> str:
    """Return why a value is refused, by the loader and the JSON Schema alike."""
    assert not SCHEMAS[id(kind)].is_valid(value)
    with pytest.raises(ValidationError) as error:
        kind.validate_python(value)
    [finding] = error.value.errors()
    return finding["msg"]


def taken(kind: TypeAdapter[Any], value: object) -> object:
    """Return what a value means that is taken by the loader and the JSON Schema alike."""
    assert SCHEMAS[id(kind)].is_valid(value)
    return kind.validate_python(value)


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example/.well-known/jwks.json",
        "https://login.example",
        "https://login.example:8443?tenant=a%20b&x=/?",
        "HTTPS://LOGIN_1.example/a;b=c,d/@me/%7Euser/",
        "https://192.0.2.1/auth",
        "https://[2001:db8::1]:443/auth",
        "https://app/auth",
        "http://localhost:3000/auth",
        "http://127.0.0.1:8001/auth",
        "http://127.8.9.10/auth",
        "http://[::1]:8001/auth",
    ],
)
def test_a_url_is_secure_or_of_this_machine(url: str) -> None:
    """URL with https of any host, or with http of a loopback address, is taken as written."""
    assert taken(URL, url) == url
    assert taken(URL, f" {url}\n") == url


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_a_url_may_be_absent(nothing: str | None) -> None:
    """Nothing, and text of nothing but blanks, is no URL."""
    assert taken(URL, nothing) is None


SECURE = "write https://: http:// is only for this machine"
NO_USER = "without a user and a password"
NO_URL = "this is not a URL such as"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://login.example/keys", SECURE),
        ("http://localhost.example/keys", SECURE),
        ("http://127.0.0.1.example/keys", SECURE),
        ("http://0.0.0.0/keys", SECURE),
        ("http://[::]/keys", SECURE),
        ("http://10.0.0.1/keys", SECURE),
        ("https://me:hunter2@login.example/keys", NO_USER),
        ("https://hunter2@login.example", NO_USER),
        ("http://localhost@login.example/hunter2", NO_USER),
        ("https://login.example/hunter2#keys", "without a fragment"),
        ("https://login.example/hunter2#", "without a fragment"),
        ("file:///etc/hunter2", NO_URL),
        ("ftp://login.example/hunter2", NO_URL),
        ("unix:///var/run/hunter2", NO_URL),
        ("login.example/hunter2", NO_URL),
        ("https:login.example/hunter2", NO_URL),
        ("https:///hunter2", NO_URL),
        ("https://:443/hunter2", NO_URL),
        ("https://login.example:0/hunter2", NO_URL),
        ("https://login.example:65536/hunter2", NO_URL),
        ("https://login.example:/hunter2", NO_URL),
        ("https://login..example/hunter2", NO_URL),
        ("https://-login.example/hunter2", NO_URL),
        (f"https://{'a' * 64}.example/hunter2", NO_URL),
        ("https://löwe.example/hunter2", NO_URL),
        ("https://[::1/hunter2", NO_URL),
        ("https://login.example/hunter 2", NO_URL),
        ("https://login.example/hunter2\nHost: x", NO_URL),
        ("https://login.example/hunter2%zz", NO_URL),
        ("https://login.example\\hunter2", NO_URL),
        ("hunter2", NO_URL),
    ],
)
def test_any_other_url_is_refused_and_not_shown(url: str, reason: str) -> None:
    """Refusal of a URL says what is wrong with it, and shows nothing of it: it may have a secret."""
    found = refusal(URL, url)
    assert reason in found
    assert "hunter" not in found


@pytest.mark.parametrize("value", [True, 5, [], {}])
def test_a_url_is_a_text(value: object) -> None:
    """Value of another type is no URL."""
    assert "write a URL such as https://login.example/path, not " in refusal(URL, value)


@pytest.mark.parametrize("name", ["cookie", "authorization", "Cookie", "X-Tenant", "accept-language", "te2", "hosts"])
def test_headers_of_the_caller_may_be_forwarded(name: str) -> None:
    """Header that says something about the caller is taken, in lower case."""
    assert taken(HEADER, name) == name.lower()


@pytest.mark.parametrize(
    "name",
    [
        *("host", "Host", "CONNECTION", "keep-alive", "te", "Trailer", "transfer-encoding", "upgrade", "expect"),
        *("content-length", "Content-Type", "content-x", "proxy-authorization", "Proxy-Connection"),
        *("sec-websocket-key", "accept-encoding", "range", "if-match"),
    ],
)
def test_headers_of_the_connection_are_never_forwarded(name: str) -> None:
    """Header that is about the connection or its bytes is refused, however it is written."""
    assert f"{name.lower()} is never forwarded" in refusal(HEADER, name)


@pytest.mark.parametrize(
    "name", ["", " ", "cookie ", "cookie:", "coo kie", "cookie\n", "x_y", "-x", "1x", "*", "é", "a" * 65, None, 5, True]
)
def test_a_header_has_a_name_of_letters_digits_and_hyphens(name: object) -> None:
    """Text that servers could read as another header is refused."""
    assert "write the name of a header, as in cookie or authorization" in refusal(HEADER, name)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("100ms", 0.1), ("0500 ms", 0.5), ("2s", 2), ("30 s", 30), (2, 2), (30, 30), ("5", 5), ("30000ms", 30)],
)
def test_a_timeout_is_a_time_in_seconds(written: object, seconds: float) -> None:
    """Timeout is whole seconds, or a text with its unit."""
    assert taken(TIMEOUT, written) == seconds


@pytest.mark.parametrize("written", ["99ms", "30001ms", "31s", "0s", 0, 31, -1, "0"])
def test_a_timeout_is_neither_short_nor_long(written: object) -> None:
    """Timeout that no answer meets, or that holds callers up, is refused."""
    assert "must be from 100ms to 30s, not " in refusal(TIMEOUT, written)


@pytest.mark.parametrize("written", ["1m", "1.5s", "s", "", "2S", None, True, 1.5, [], "-1s"])
def test_a_timeout_is_written_as_other_times_are(written: object) -> None:
    """Value that is no time is refused."""
    assert "write whole seconds, 500ms or 2s, not " in refusal(TIMEOUT, written)


PIECES = [
    *("https://", "http://", "HTTP://", "://", "localhost", "127.0.0.1", "127.1", "[::1]", "[::]", "a", ".", "..", "-"),
    *("_", "@", ":", ":80", ":0", ":65536", "/", "?", "#", "%", "%41", "%4", "host", "content-", "te", "cookie", "x"),
    *(
        "ms",
        "s",
        "1",
        "30",
        "31",
        "99",
        "100",
        "30000",
        "30001",
        "0",
        "m",
        "\u00e9",
        "\u0663",
        "\\",
        "{",
        "|",
        "$",
        "\n",
    ),
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), st.sampled_from([URL, HEADER, TIMEOUT]))
def test_loader_and_schema_take_the_same_texts(text: str, kind: TypeAdapter[Any]) -> None:
    """Loader and JSON Schema agree on every text."""
    try:
        kind.validate_python(text)
    except ValidationError:
        assert not SCHEMAS[id(kind)].is_valid(text)
    else:
        assert SCHEMAS[id(kind)].is_valid(text)


@settings(max_examples=400)
@given(st.sampled_from(["https://", "http://"]), st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_a_url_that_is_taken_means_one_host(scheme: str, rest: str) -> None:
    """URL that is taken is read alike by two libraries, so that what was checked is what is asked."""
    try:
        url = URL.validate_python(scheme + rest)
    except ValidationError:
        return
    asked, split = httpx.URL(url), urlsplit(url)
    assert (asked.host, asked.scheme, asked.userinfo) == (split.hostname, split.scheme, b"")
    assert asked.port in (split.port, None)
