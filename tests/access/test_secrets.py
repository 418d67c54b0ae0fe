"""What is no secret: anything that others may know."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization as forms

from app.config.diagnostics import ConfigError
from app.config.environment import Environment
from app.config.load import parse
from tests.support.login import private

CHANNELS = "auth: {tokens: {secret: '${SECRET:-}'}}\nchannels: {a: {subscribe: token}}\n"
PUBLIC = [
    private(algorithm).public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo).decode()
    for algorithm in ("RS256", "ES256", "ES384", "ES512", "EdDSA")
]
VARIANTS: dict[str, Callable[[str], str]] = {
    "as it is": lambda pem: pem,
    "without its last line feed": str.strip,
    "with carriage returns": lambda pem: pem.replace("\n", "\r\n"),
    "with blanks": lambda pem: pem.replace("\n", " "),
    "with tabs around it": lambda pem: f"\t\n {pem}\n\t",
    "on one line": lambda pem: pem.replace("\n", ""),
    "with written line feeds": lambda pem: pem.replace("\n", "\\n"),
    "in small letters": str.lower,
    "without its first and last line": lambda pem: "\n".join(pem.split("\n")[1:-2]),
    "the same, on one line": lambda pem: "".join(pem.split("\n")[1:-2]),
    "behind a comment": lambda pem: f"the key:\n{pem}",
}


def problem(secret: str) -> str:
    """Return what is wrong with a file of this secret, from the environment; an empty text for nothing."""
    try:
        parse(CHANNELS.encode(), Environment.read({"SECRET": secret}))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_public_key_is_no_secret(variant: str) -> None:
    """Server does not start with a public key as its secret, however its blanks were changed, and does not show it."""
    for pem in PUBLIC:
        found = problem(VARIANTS[variant](pem))
        assert "auth.tokens.secret" in found
        assert "public or private key" in found
        assert pem.split("\n")[1][:20] not in found


@pytest.mark.parametrize("secret", ["", " ", "\t\n", "x" * 31, " " + "x" * 31 + " "])
def test_nothing_and_too_little_is_no_secret(secret: str) -> None:
    """Server does not start without a secret of 32 bytes where a policy needs tokens."""
    assert "auth.tokens.secret" in problem(secret)


@pytest.mark.parametrize("secret", ["x" * 32, "MII" + "x" * 61, "MIIB" + "A" * 60, "é" * 16, "0" * 64])
def test_whatever_nobody_knows_is_a_secret(secret: str) -> None:
    """Server takes any text of 32 bytes that is no key of another kind."""
    assert problem(secret) == ""
