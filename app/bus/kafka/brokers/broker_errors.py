"""Explains an error of a broker in one line: where, what is wrong, and what to do. Never a password."""

from __future__ import annotations

import os
import re
import socket
import ssl

from aiokafka import errors
from aiokafka.errors import BrokerResponseError, KafkaConnectionError, KafkaError, UnknownError

from app.bus.outcomes import Wording
from app.core.errors import UnavailableError

WORDING = Wording(
    {"commit": "a commit", "listen": "a fetch", "read": "a read"},
    waits="s for the broker",
    late="it does not answer",
)

NOT_READY = "the broker is not ready: try again in a moment"
REFUSED = "the broker refused this: try again in a moment"
"""The text for clients. The reason contains names and addresses, so only the log and readiness show it."""

MISSING = frozenset((3, 100))
"""Codes that say that a topic does not exist."""
MOVED = frozenset((3, 5, 6, 8, 9, 41, 74, 75, 76, 100))
"""Codes that say that the topic, or its leader, is not where it was. Nothing was stored."""

OUT_OF_RANGE = 1
TOO_LARGE = frozenset((10, 18))
NOT_STORED = frozenset((19, 29, 31, 32, 44, 87, 89))
"""Codes of refusals after which nothing was stored."""
SEQUENCE_LOST = frozenset((45, 47, 59))
"""Codes that say that the broker does not know our numbers any more. Nothing was stored."""
DUPLICATE = 46
EXISTS = 36

CLOSED = "the connection was closed"
_LOGIN = "the port may want TLS (kafkas://), or a login"

_NO_TLS = "a port without TLS takes kafka:// only, and no kafka.tls"

_CHECK = "check the host and port in the URL, and that the broker runs"

_BY_KIND: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "no answer in time: the broker may be stalled, or a firewall drops what is sent to it"),
    (socket.gaierror, "the host name has no address here: check the host in the URL"),
    (ssl.SSLCertVerificationError, "the certificate is not trusted: name its authority's file in kafka.ca"),
    (ssl.SSLError, "no TLS could be agreed on: the port may not be one with TLS"),
    (ConnectionRefusedError, f"nothing listens there: {_CHECK}"),
    (ConnectionError, CLOSED),
    (EOFError, CLOSED),
    (AssertionError, "what answers there is no Kafka broker, or is none that we know"),
    (KafkaConnectionError, CLOSED),
    (errors.SaslAuthenticationFailed, "the login was refused: correct the user, the password or kafka.sasl"),
    (errors.AuthenticationFailedError, "the login was refused: correct the user, the password or kafka.sasl"),
    (errors.UnsupportedSaslMechanismError, "the broker does not know the mechanism: correct kafka.sasl"),
    (errors.NotEnoughReplicasError, "fewer replicas are in sync than min.insync.replicas asks for"),
    (errors.TopicAuthorizationFailedError, "this user may not use the topic: give it the right (an ACL)"),
    (errors.ClusterAuthorizationFailedError, "this user may not do this in the cluster: give it the right (an ACL)"),
)
"""What is wrong and what to do, by the class of an error; the first that fits counts."""


class AtBrokerError(KafkaError):
    """What went wrong at one broker; its text says which and what to do."""


class TopicError(KafkaError):
    """What a broker said of one topic. It says nothing of others."""


def at(host: str, port: int, error: BaseException, *, connecting: bool = False) -> AtBrokerError:
    """Return the error with its broker's address."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reason = explain(error)
    if connecting and reason == CLOSED:
        reason = f"{reason}: {_LOGIN}"
    elif connecting and isinstance(error, TimeoutError):
        reason = f"{reason}; {_NO_TLS}"
    return AtBrokerError(f"{place}: {reason}")


def explain(error: BaseException) -> str:
    """Say in one line what is wrong and what to do. Our own errors already say it."""
    if isinstance(error, (AtBrokerError, UnavailableError)):
        return error.args[0] if error.args else str(error)
    cause = error.__cause__
    if isinstance(error, KafkaConnectionError) and isinstance(cause, (OSError, EOFError)):
        error = cause
    if type(error) is RuntimeError:  # of uvloop
        return CLOSED
    error = _of_system(error)
    known = next((text for kind, text in _BY_KIND if isinstance(error, kind)), None)
    return known or _words(error)


def of_code(code: int, what: str) -> str:
    """Say what a broker's refusal of a request means; ``what`` is what was asked for."""
    kind: type[BaseException] = errors.for_code(code)
    known = next((text for known, text in _BY_KIND if issubclass(kind, known)), None)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__.removesuffix("Error")).lower()
    description = None if kind in (UnknownError, BrokerResponseError) else getattr(kind, "message", None)
    return f"{what}: {known or description or name} (Kafka's code {code})"


def _of_system(error: BaseException) -> BaseException:
    """Return the system's error for one of asyncio's, which joins those of several addresses."""
    if found := re.search(r"\[Errno (\d+)\] Connect call failed", str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return error


def _words(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error).split("\n", maxsplit=1)[0]
    return text or type(error).__name__
