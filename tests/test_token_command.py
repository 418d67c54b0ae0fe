"""The ``token`` command: it mints, and it explains without showing the token."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
import pytest

from app.cli import main

SECRET = "s" * 32
FILE = """
auth:
  tokens: {secret: %s, issuer: me, claims: {publish: may.publish}}
defaults: {publish: key}
channels:
  news: {subscribe: anyone}
  "chat.{room}":
    subscribe: [key, token]
    publish: token
  "user.{id}": {subscribe: {claim: sub}}
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure tokens in a file of this test's own."""
    path = tmp_path / "channels.yaml"
    path.write_text(FILE % SECRET)
    monkeypatch.setenv("CHANNELS_CONFIG", str(path))
    return path


def mint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return a token that the command prints."""
    assert main(["token", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_a_minted_token_has_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Command signs with the configured secret, and puts issuer, times and grants where the file says."""
    raw = mint(capsys, "--sub", "42", "--subscribe", "chat.7", "--claim", 'may={"publish": ["chat.*"]}', "--ttl", "90s")
    claims = jwt.decode(raw, SECRET, algorithms=["HS256"], issuer="me")
    assert claims["exp"] - claims["iat"] == 90
    assert abs(claims["iat"] - time.time()) < 5
    assert (claims["sub"], claims["subscribe"], claims["may"]) == ("42", ["chat.7"], {"publish": ["chat.*"]})


def test_a_grant_that_fits_no_channel_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Command warns of a family's name and of a channel that is not declared, and mints all the same."""
    grants = ("chat.*", "chat.7", "news", "chat.{room}", "mews")
    assert main(["token", *(word for grant in grants for word in ("--subscribe", grant))]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "warning: the grant 'chat.{room}' fits no channel: write 'chat.*'",
        "warning: the grant 'mews' fits no channel: declare it in channels.yaml",
    ]
    assert jwt.decode(said.out.strip(), SECRET, algorithms=["HS256"], issuer="me")["subscribe"] == list(grants)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--ttl", "25h"), "--ttl must be from 1s to 1d"),
        (("--ttl", "soon"), "--ttl must be from 1s to 1d"),
        (("--claim", "a"), "--claim needs NAME=JSON"),
        (("--claim", "jti=1"), "the token would not be good: its 'jti' is no text"),
    ],
)
def test_a_token_that_would_be_refused_is_not_minted(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], fragment: str
) -> None:
    """Command says what is wrong instead of printing a token that the server refuses."""
    assert main(["token", *arguments]) == 1
    printed = capsys.readouterr()
    assert (printed.out, fragment in printed.err) == ("", True)


def test_the_command_needs_configured_tokens(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """Command names the key of the file that is missing."""
    file.write_text("channels: {a: {}}")
    assert main(["token"]) == 1
    assert "auth.tokens: tokens are not configured" in capsys.readouterr().err


def test_an_explanation_names_the_line_that_admits(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """Command says which line of the file admits the token, and which refuses it and for what; it shows no token."""
    raw = mint(capsys, "--sub", "42", "--subscribe", "chat.*")
    assert main(["token", "--explain", raw, "chat.7"]) == 0
    printed = capsys.readouterr().out
    assert f'subscribe chat.7: admitted by {file}:8 channels."chat.{{room}}".subscribe (token)' in printed
    assert f'publish chat.7: refused by {file}:9 channels."chat.{{room}}".publish' in printed
    assert "its publish grants do not list 'chat.7' or 'chat.*'" in printed
    assert raw not in printed


@pytest.mark.parametrize(
    ("channel", "code", "fragment"),
    [
        ("user.42", 0, "(sub)"),
        ("user.43", 1, "its claim 'sub' is another than the name's parameter"),
        ("news", 0, "publish news: refused by"),
        ("nope", 1, "there is no channel 'nope'"),
    ],
)
def test_an_explanation_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], channel: str, code: int, fragment: str
) -> None:
    """Command exits with 0 if the token may do anything on the channel, else with 1, and says why."""
    raw = mint(capsys, "--sub", "42")
    assert main(["token", "--explain", raw, channel]) == code
    assert fragment.replace("(sub)", "({claim: sub})") in capsys.readouterr().out


def test_a_token_that_is_not_good_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Command says why a token is not good, and shows nothing of it."""
    raw = jwt.encode({"exp": 1, "iss": "me", "sub": "planted"}, SECRET, "HS256")
    assert main(["token", "--explain", raw, "news"]) == 1
    printed = capsys.readouterr().out
    assert "the token is not good: it has expired" in printed
    assert "planted" not in printed
    assert raw not in json.dumps(printed)
