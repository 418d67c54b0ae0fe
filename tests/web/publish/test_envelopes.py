"""Envelopes: a message with the name of its channel, however its JSON is written."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest

from app.core import data
from app.core.errors import AbideError, MalformedError
from app.core.turns import Pace, Steps
from app.web.publish import body
from app.web.publish.array import MAX_ITEMS, walk_envelopes
from app.web.publish.body import JSON, MEMBERS, Envelope, as_envelope, envelope_of

MESSAGES = ("1", "-0.0", "null", '"a"', '"}"', '{"a":[1,{"b":"]"}]}', '"é\\ud800"', "[ ]", "[" * 127 + "]" * 127)


T = TypeVar("T")


def walked(steps: Steps[T]) -> T:
    """Return the result of a computation that takes turns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


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


def items_by_members(content: bytes) -> list[Envelope | str]:
    """Return the envelope of each item of an array, or why it is refused, one after the other."""
    places = walked(data.walk_items(content, MAX_ITEMS, Pace()))
    return [verdict(partial(by_members, content[place].decode())) for place in places]


def items_at_once(content: bytes) -> list[Envelope | str]:
    return [str(item) if isinstance(item, AbideError) else item for item in walked(walk_envelopes(content, Pace()))]


def outcome(read: Callable[[bytes], list[Envelope | str]], content: bytes) -> list[Envelope | str] | str:
    """Return the items of an array, or why all of it is refused."""
    try:
        return read(content)
    except AbideError as error:
        return str(error)


def test_what_is_nearly_an_array_is_judged_item_by_item() -> None:
    """Array with a character more or less has the items that each of its envelopes is, or is refused."""
    chance = random.Random(22)  # noqa: S311 — the same texts each time
    pieces = (
        "",
        '"',
        "\\",
        ",",
        ":",
        "{",
        "}",
        "[",
        "]",
        " ",
        "é",
        "\x00",
        "1",
        '"key":',
        "NaN",
        "[" * 200,
        "[" * 2000,
    )
    for _ in range(2000):
        items = [
            '{"channel":"news","message":' + chance.choice(MESSAGES) + chance.choice(["}", ',"key":"k"}'])
            for _ in range(3)
        ]
        text = chance.choice(["[{}]", " [ {}\n] "]).format(chance.choice([",", " , "]).join(items))
        at = chance.randrange(text.index("[") + 1, len(text) + 1)
        content = (text[:at] + chance.choice(pieces) + text[at + chance.randrange(2) :]).encode()
        content = chance.choice([content, content[: chance.randrange(1, len(content) + 1)]])
        if data.is_array(content):
            assert outcome(items_at_once, content) == outcome(items_by_members, content)


@pytest.mark.parametrize("size", [20, 300, 20_000, 50_000])
def test_an_array_of_any_size_has_all_its_items(size: int) -> None:
    """Array that is read in several steps has each of its items once, whatever characters are where it is divided."""
    expected = [
        ("news", f'"{number}{"é" * (size // 2)}"'.encode(), None) for number in range(min(900, 200_000 // size))
    ]
    items = [f'{{"channel":"news","message":{message.decode()}}}' for _, message, _ in expected]
    assert items_at_once(f"[{','.join(items)}]".encode()) == expected


def test_an_array_has_at_most_a_thousand_items() -> None:
    """Array of a thousand items is taken, and refused with one more."""
    item = '{"channel":"news","message":1}'
    assert len(items_at_once(f"[{','.join([item] * MAX_ITEMS)}]".encode())) == MAX_ITEMS
    with pytest.raises(MalformedError, match="more than 1000 items"):
        items_at_once(f"[{','.join([item] * (MAX_ITEMS + 1))}]".encode())


def test_a_push_has_one_key() -> None:
    """Push has the key of its header or of its envelope, and is refused with both."""
    assert (body.only_key("a", None), body.only_key(None, "b"), body.only_key(None, None)) == ("a", "b", None)
    with pytest.raises(MalformedError, match="only one of them"):
        body.only_key("a", "b")
