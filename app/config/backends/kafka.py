"""URLs of Kafka: some brokers, and what the names of topics begin with."""

from __future__ import annotations

import re

from app.config import patterns
from app.config.backends import host

_PREFIX = r"[A-Za-z0-9._-]{0,100}"
PATTERN = (
    rf"{patterns.any_case('kafka')}[Ss]?://"
    rf"(?:{host.USER})?{host.SERVER}(?:,{host.SERVER})*(?:/{_PREFIX})?"
)
_WHOLE = patterns.whole(PATTERN)

TOPIC = patterns.whole(r"(?!\.{1,2}(?![\s\S]))[A-Za-z0-9._-]{1,249}")
"""Pattern of the names that topics may have."""


def refusal(url: str) -> str | None:
    """Return why the URL cannot be that of a Kafka; None if it can. The text shows nothing of it."""
    if patterns.fits(_WHOLE, url):
        return None
    expected = (
        "this is not a URL such as kafka://user:password@broker1:9092,broker2:9092/prefix. (it is not shown here)"
    )
    rest = url.partition("://")[2]
    authority, _, prefix = rest.partition("/")
    _, _, hosts = authority.rpartition("@")
    if any(character.isspace() for character in url):
        return f"{expected}: it holds a space or a line break"
    if "?" in hosts + prefix:
        return f"{expected}: it takes no parameters; kafka.tls, kafka.ca and kafka.sasl are keys of the file"
    if not all(map(host.is_host, hosts.split(","))):
        return (
            f"{expected}: a host or port is wrong; write @, #, / and ? in the user or password as %40, %23, %2F and %3F"
        )
    if not re.fullmatch(_PREFIX, prefix, re.ASCII):
        return f"{expected}: a prefix has up to 100 letters, digits and . _ -"
    return f"{expected}: it cannot be parsed"


def topic_refusal(topic: str) -> str | None:
    """Return why this is no name of a topic; None if it is one."""
    if patterns.fits(TOPIC, topic):
        return None
    return "must be the name of a topic in Kafka, which has 1 to 249 letters, digits and . _ -"
