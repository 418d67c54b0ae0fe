"""Message data: what is JSON, and that it is passed on as it came."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import data
from app.core.errors import MalformedError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
layouts = st.sampled_from([{"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}, {}])


def _text(value: object, layout: dict[str, object]) -> str:
    text = json.dumps(value, **layout)  # type: ignore[arg-type]
    return text.encode("utf-8", "replace").decode()


@given(values, layouts)
def test_every_json_value_is_accepted_as_it_stands(value: object, layout: dict[str, object]) -> None:
    """Data returns each JSON value byte for byte, whatever its layout."""
    body = _text(value, layout).encode()
    assert data.check_bytes(body) is body


@given(st.dictionaries(st.text(max_size=5), values, max_size=5), layouts)
def test_members_are_the_text_between_name_and_comma(value: dict[str, object], layout: dict[str, object]) -> None:
    """Members of an object are slices of its own text."""
    text = _text(value, layout)
    found = data.members(text)
    assert {name: json.loads(part) for name, part in found.items()} == json.loads(text)
    assert all(part in text for part in found.values())


@given(st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=3), layouts, st.data())
def test_short_way_to_members_leads_where_the_long_one_does(
    value: dict[str, object], layout: dict[str, object], draw: st.DataObject
) -> None:
    """Members are those that a step by step reading finds, or its error, also when a character is off."""
    text = _text(value, layout)
    at = draw.draw(st.integers(0, len(text)))
    piece = draw.draw(st.sampled_from(["", '"', ",", ":", "}", "{", " ", "\n", "\\", "\x00", "1", '"a":1,']))
    text = text[:at] + piece + text[at + draw.draw(st.integers(0, 1)) :]
    try:
        expected: object = data._members(text)  # noqa: SLF001 — the long way
    except MalformedError as error:
        expected = str(error)
    try:
        found: object = data.members(text)
    except MalformedError as error:
        found = str(error)
    assert found == expected


@given(st.lists(values, max_size=5), layouts)
def test_items_are_the_text_between_commas(value: list[object], layout: dict[str, object]) -> None:
    """Items of an array are slices of its own text."""
    text = _text(value, layout)
    assert [json.loads(part) for part in data.items(text)] == json.loads(text)


@given(st.text())
def test_text_is_json_exactly_if_the_standard_library_says_so(text: str) -> None:
    """Data agrees with the standard library on what is JSON."""
    try:
        expected = True
        json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    except ValueError:
        expected = False
    try:
        data.check(text)
    except MalformedError:
        assert not expected
    else:
        assert expected


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"[1,]", b'{"a":1,}', b"01", b"1 2", b"NaN", b"[Infinity]", b"-Infinity", b"'a'", b"tru",
     b'"\x01"', b'"\\x"', b'"a', b"\xef\xbb\xbf1", b'"\xff"', b'"\xed\xa0\x80"', b"+1", b"1.", b".5", b"[1"],
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Data refuses what RFC 8259 does not know, and a byte order mark."""
    with pytest.raises(MalformedError):
        data.check_bytes(body)


@pytest.mark.parametrize(
    "text", ['{"a":1', '{"a" 1}', "{a:1}", '{"a":1,}', '{"a":1}x', "[]", "1", '{"a":1 "b":2}', '{"']
)
def test_what_is_not_an_object_has_no_members(text: str) -> None:
    """Data refuses to take members from anything but one whole object."""
    with pytest.raises(MalformedError):
        data.members(text)


def test_a_member_that_stands_twice_is_refused() -> None:
    """Data refuses an object of which readers could take one value or the other."""
    with pytest.raises(MalformedError, match="'a' stands twice"):
        data.members('{"a": 1, "a": 2}')


def test_nesting_is_bounded() -> None:
    """Data takes 128 levels and refuses 129, brackets inside strings not counted."""
    data.check("[" * 128 + "]" * 128)
    data.check("[" + ",".join(['"[[["'] * 100) + "]")
    data.check("[" + ",".join(["[]"] * 200) + "]")
    with pytest.raises(MalformedError, match="128 deep"):
        data.check("[" * 129 + "]" * 129)


def test_hostile_bodies_cost_linear_time() -> None:
    """Data refuses a megabyte of escaped quotes or brackets without a quadratic search."""
    for text in ("[" * 200 + '"' + '\\"' * 500_000, "[" * 1_000_000, "9" * 1_000_000 + "x"):
        with pytest.raises(MalformedError):
            data.check(text)


def test_numbers_keep_their_digits() -> None:
    """Data passes on numbers that no machine type holds."""
    text = '{"n": 123456789012345678901234567890.000, "m": 1e999}'
    assert data.members(text) == {"n": "123456789012345678901234567890.000", "m": "1e999"}
    data.check("1" * 10_000)


def test_plain_text_becomes_a_json_string() -> None:
    """Data turns text into the JSON string that says the same."""
    assert json.loads(data.from_text('say "é"\n'.encode())) == 'say "é"\n'
