"""URLs of Redis, as its drivers and hosts write them: of a server, of nodes of a cluster, or of sentinels."""

from __future__ import annotations

from app.config import patterns
from app.config.backends import host

_PARAMETERS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_CHECKS = "(?:required|optional|none)"
_PARAMETER = rf"(?:(?:{'|'.join(_PARAMETERS)})=[^&{host.NONE_OF}]+|ssl_cert_reqs={_CHECKS})"
_QUERY = rf"(?:\?{_PARAMETER}(?:&{_PARAMETER})*)?"
_DATABASE = rf"(?:/(?:{patterns.number(0, 65535)})?)?"
_SERVICE = r"/[A-Za-z0-9_.-]+"
_SERVERS = rf"{host.SERVER}(?:,{host.SERVER})*"
_USER = rf"(?:{host.USER})?"


def pattern(scheme: str) -> str:
    """Return a pattern for URLs of one server, with and without TLS; ``scheme`` begins with ``redis``."""
    return rf"{_any_tls(scheme)}://{_USER}{host.SERVER}{_DATABASE}{_QUERY}"


def _any_tls(scheme: str) -> str:
    return rf"{patterns.any_case('redis')}[Ss]?{patterns.any_case(scheme.removeprefix('redis'))}"


LIVE_PATTERN = pattern("redis")

_CLUSTER = rf"{_any_tls('redis-stream')}\+{patterns.any_case('cluster')}://{_USER}{_SERVERS}/?{_QUERY}"
_SENTINEL = (
    rf"{_any_tls('redis-stream')}\+{patterns.any_case('sentinel')}://{_USER}{_SERVERS}{_SERVICE}{_DATABASE}{_QUERY}"
)
STREAM_PATTERN = rf"(?:{pattern('redis-stream')}|{_CLUSTER}|{_SENTINEL})"

_KINDS = {
    "": ("redis-stream://user:password@host:6379/0", patterns.whole(pattern("redis-stream"))),
    "cluster": ("redis-stream+cluster://user:password@host1:6379,host2:6379", patterns.whole(_CLUSTER)),
    "sentinel": ("redis-stream+sentinel://user:password@host1:26379,host2:26379/service/0", patterns.whole(_SENTINEL)),
}
"""By what follows the plus in the scheme: an example, and what fits."""


def live_refusal(url: str) -> str | None:
    """Return why the URL cannot be that of pub/sub; None if it can. The text shows nothing of it."""
    return refusal(url, "redis://user:password@host:6379/0", patterns.whole(LIVE_PATTERN))


def stream_refusal(url: str) -> str | None:
    """Return why the URL cannot be that of streams; None if it can. The text shows nothing of it."""
    example, whole = _KINDS.get(url.partition("://")[0].partition("+")[2].lower(), _KINDS[""])
    return refusal(url, example, whole)


def refusal(url: str, example: str, whole: str) -> str | None:
    """Return why the URL does not fit a pattern; None if it does."""
    expected = f"this is not a URL such as {example} (it is not shown here)"
    if patterns.fits(whole, url):
        return None
    if any(character.isspace() for character in url):
        return f"{expected}: it holds a space or a line break"
    hosts, _, rest = url.partition("://")[2].rpartition("@")[2].partition("/")
    if "@" in url.partition("://")[2].rpartition("@")[0] or "#" in url:
        return f"{expected}: write @, #, / and ? in the user or password as %40, %23, %2F and %3F"
    if not all(map(host.is_host, hosts.partition("?")[0].split(","))):
        return f"{expected}: its host or port is wrong"
    if "?" in url:
        names = ", ".join([*_PARAMETERS, "ssl_cert_reqs"])
        return f"{expected}: what may follow the question mark is {names}"
    return f"{expected}: {'what follows the host is wrong' if rest else 'it cannot be parsed'}"
