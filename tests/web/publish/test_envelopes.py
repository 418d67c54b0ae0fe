"""Envelopes: a message with the name of its channel, however its JSON is written."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial

import pytest

from app.core import data
from app.core.errors import MalformedError
from app.web.publish import body
from app.web.publish.body import JSON, MEMBERS, Envelope, as_envelope, envelope_of

MESSAGES = ("1", "-0.0", "null", '"a"', '"}"', '{"a":[1,{"b":"]"}]}', '"é\\ud800"', "[ ]", "[" * 127 + "]" * 127)


def verdict(read: Callable[[], Envelope]) -> Envelope | str:
    """Return the envelope, or why it is refused."""
    try:
        return read()
    except MalformedError as error:
        return str(error)


def by_members(text: str) -> Envelope:
    return envelope_of(data.members(text, MEMBERS))


@pytest.mark.parametrize("message", MESSAGES)
def test_an_envelope_is_read_whatever_its_order_and_its_blanks(message: str) -> None:
    """Envelope has the same channel, message and key in every order of its members and with every blank."""
    members = ['"channel"{0}:{0}"news"', f'"message"{{0}}:{{0}}{message.replace("{", "{{").replace("}", "}}")}']
    for key, blank in itertools.product((None, "k"), ("", " ", "\r\n\t")):
        for order in itertools.permutations(members if key is None else [*members, '"key"{0}:{0}"k"']):
            inner = "{0},{0}".join(order)
            text = f"{{0}}{{{{{{0}}{inner}{{0}}}}}}{{0}}".format(blank)
            assert as_envelope(JSON, text.encode()) == ("news", message.encode(), key)


def test_what_is_nearly_an_envelope_is_judged_by_its_members() -> None:
    """Envelope with a character more or less is what its members say, or refused."""
    chance = random.Random(21)  # noqa: S311 — the same texts each time
    pieces = ("", '"', "\\", ",", ":", "{", "}", "[", "]", " ", "é", "\x00", "1", '"key":', '"a":1,', ',"message":2')
    for _ in range(3000):
        text = '{"channel":"news","message":' + chance.choice(MESSAGES) + chance.choice(["}", ',"key":"k"}'])
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(pieces) + text[at + chance.randrange(2) :]
        expected = verdict(partial(by_members, text))
        assert verdict(partial(as_envelope, JSON, text.encode())) == expected


def test_a_push_has_one_key() -> None:
    """Push has the key of its header or of its envelope, and is refused with both."""
    assert (body.only_key("a", None), body.only_key(None, "b"), body.only_key(None, None)) == ("a", "b", None)
    with pytest.raises(MalformedError, match="only one of them"):
        body.only_key("a", "b")
