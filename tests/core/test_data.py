"""Message data: what is JSON, and that it is passed on as it came."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core import data, scan, turns
from app.core.errors import MalformedError, TooLargeError
from app.core.scan import Scan
from app.core.turns import Pace, Steps

T = TypeVar("T")

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
    found = data.members(text, value)
    assert {name: json.loads(part) for name, part in found.items()} == json.loads(text)
    assert all(part in text for part in found.values())


class Pairs(list[tuple[str, object]]):
    """A JSON object as its members, in order and with those that appear twice."""


def parsed(text: str) -> object:
    return json.loads(text, object_pairs_hook=Pairs, parse_int=float)


@given(st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=3), layouts, st.data())
def test_members_are_those_that_the_standard_library_finds(
    value: dict[str, object], layout: dict[str, object], draw: st.DataObject
) -> None:
    """Members are those that the standard library finds, also when a character is off."""
    text = _text(value, layout)
    at = draw.draw(st.integers(0, len(text)))
    piece = draw.draw(st.sampled_from(["", '"', ",", ":", "}", "{", " ", "\n", "\\", "\x00", "1", '"a":1,']))
    text = text[:at] + piece + text[at + draw.draw(st.integers(0, 1)) :]
    names = {*value, "a"}
    try:
        pairs = parsed(text)
    except ValueError:
        pairs = None
    if isinstance(pairs, Pairs) and len(dict(pairs)) == len(pairs) and dict(pairs).keys() <= names:
        found = data.members(text, names)
        assert [(name, parsed(part)) for name, part in found.items()] == pairs
    else:
        with pytest.raises(MalformedError):
            data.members(text, names)


@given(st.lists(values, max_size=5), layouts)
def test_items_are_the_text_between_commas(value: list[object], layout: dict[str, object]) -> None:
    """Items of an array are slices of its own text."""
    text = _text(value, layout)
    body = text.encode()
    assert [json.loads(body[place]) for place in walked(data.walk_items(body, 5, Pace()))] == json.loads(text)


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
        data.members(text, {"a", "b"})
    with pytest.raises(MalformedError):
        walked(Scan(text.encode(), 100, Pace()).members(any_name))


def test_a_member_that_stands_twice_is_refused() -> None:
    """Data refuses an object of which readers could take one value or the other."""
    with pytest.raises(MalformedError, match="'a' appears twice"):
        data.members('{"a": 1, "a": 2}', {"a"})


def test_nesting_is_bounded_to_128_levels() -> None:
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
    assert data.members(text, {"n", "m"}) == {"n": "123456789012345678901234567890.000", "m": "1e999"}
    data.check("1" * 10_000)


async def test_plain_text_becomes_a_json_string() -> None:
    """Data turns text into the JSON string that says the same."""
    assert json.loads(await data.read_text('say "é"\n'.encode())) == 'say "é"\n'


def walked(steps: Steps[T]) -> T:
    """Return the result of a computation in steps."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def any_name(text: bytes, _: scan.Members) -> str:
    name: str = json.loads(text)
    return name


@pytest.fixture(params=[6, 9, scan.WINDOW])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a walk look at so few bytes at once that each text is cut wherever it can be: an escape has six."""
    monkeypatch.setattr(scan, "WINDOW", request.param)
    monkeypatch.setattr(turns, "STEP_SECONDS", 0)


pieces = st.sampled_from(
    [
        *'[]{},:"',
        '"a"',
        '"\\"',
        '"\\u00"',
        "1",
        "-0",
        "01",
        "1.5e-3",
        "1.",
        "-",
        "true",
        "nul",
        " ",
        "\n",
        "\x00",
        "é",
        "NaN",
        '"a":',
    ]
)


@pytest.mark.usefixtures("window")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(pieces, max_size=12).map("".join) | st.tuples(values, layouts).map(lambda both: _text(*both)) | st.text()
)
def test_walk_accepts_what_the_scanner_accepts(text: str) -> None:
    """Scan over a text agrees with the standard library's scanner on what is JSON, wherever it is cut."""
    try:
        data.check(text)
        expected = True
    except MalformedError:
        expected = False
    try:
        walked(Scan(text.encode(), 10_000, Pace()).whole())
        found = True
    except MalformedError:
        found = False
    assert found == expected


@pytest.mark.usefixtures("window")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5), values, max_size=5), layouts)
def test_walk_finds_the_members_that_the_scanner_finds(value: dict[str, object], layout: dict[str, object]) -> None:
    """Scan over an object finds the same members as the scanner."""
    text = _text(value, layout)
    assert walked(Scan(text.encode(), 10_000, Pace()).members(any_name)) == data.members(text, value)


@pytest.mark.parametrize("levels", [127, 128, 129])
@pytest.mark.parametrize("inner", ["1", "[]", '{"a": 1}', "[1, [2], 3]"])
@pytest.mark.parametrize(("before", "after"), [("[", "]"), ('{"a": ', "}"), ("[1, [], ", ", [2]]")])
def test_walk_bounds_nesting_as_the_scanner_does(levels: int, inner: str, before: str, after: str) -> None:
    """Scan takes 128 levels and refuses 129, whatever they are made of."""
    text = before * (levels - 1) + inner + after * (levels - 1)
    refusals = []
    reads: list[Callable[[], None]] = [
        lambda: data.check(text),
        lambda: walked(Scan(text.encode(), 10_000, Pace()).whole()),
    ]
    for read in reads:
        try:
            read()
        except MalformedError as error:
            refusals.append("128 deep" in str(error))
    assert refusals in ([], [True, True])


@pytest.mark.parametrize("body", [b'"' + b"x" * 40_000 + bad + b'"' for bad in (b"\xff", b"\xed\xa0\x80", b"\xf0\x9f")])
def test_walk_refuses_what_is_not_utf8(body: bytes) -> None:
    """Scan says at which byte a large text is not UTF-8."""
    with pytest.raises(MalformedError, match=f"byte 40001 is {body[40_001]:#04x}"):
        walked(Scan(body, len(body), Pace()).whole())


def test_large_array_is_refused_at_its_first_item_too_many() -> None:
    """Scan over an array reads no more items than it may have, whatever follows."""
    body = b"[" + b"1," * 1000 + b"2,never read"
    with pytest.raises(MalformedError, match="more than 1000 items"):
        walked(data.walk_items(body, 1000, Pace()))


@pytest.mark.parametrize(
    "item", [b'"' + b"x" * data.MAX_ITEM + b'"', b"[" + b"1," * data.MAX_ITEM, b"9" * 2 * data.MAX_ITEM]
)
def test_large_item_is_refused_as_soon_as_it_is_too_large(item: bytes) -> None:
    """Scan over an array stops at an item that is larger than any message with its envelope."""
    with pytest.raises(TooLargeError):
        walked(data.walk_items(b"[" + item + b"never read", 1000, Pace()))


@pytest.mark.parametrize("body", [b'{"b": 1, never read', b'{"a": 1, "\\u0061": 2, never read'])
@pytest.mark.parametrize("filler", [b"", b" " * data.SMALL], ids=["small", "large"])
async def test_members_are_read_up_to_the_first_that_may_not_be(body: bytes, filler: bytes) -> None:
    """Members are read no further than to an unknown name, or one that appears twice, and the error says which."""
    with pytest.raises(data.MemberError, match=r"unknown member 'b'|'a' appears twice") as refused:
        await data.read_members(filler + body, {"a"})
    assert refused.value.found in ({}, {"a": "1"})


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\udfff"', '"\\udc00\\ud800"'])
def test_half_of_a_surrogate_pair_is_no_string(text: str) -> None:
    """Strings that are used are refused where they could not be written again, and pass as a message."""
    with pytest.raises(MalformedError, match="half of a surrogate pair"):
        data.string(text, "'id'")
    data.check(text)
    assert data.string('"\\ud83d\\ude00"', "'id'") == "😀"


def test_errors_repeat_little_of_what_was_sent() -> None:
    """Errors show the beginning of what somebody sent, however long that is."""
    long = "x" * 100_000
    refused: list[Callable[[], object]] = [
        lambda: data.members(f'{{"{long}": 1}}', ()),
        lambda: data.members(f'{{"{long}": 1, "{long}": 1}}', {long}),
        lambda: data.string("[" + long, "'key'"),
        lambda: data.check(long),
    ]
    for call in refused:
        with pytest.raises(MalformedError) as error:
            call()
        assert len(str(error.value)) < 200


HOSTILE = {
    "arrays": b"[" + b"[]," * 349_000 + b"1]",
    "integers": b"[" + b"1," * 524_000 + b"1]",
    "strings": b"[" + b'"",' * 349_000 + b"1]",
    "escapes": b'"' + b"\\\\" * 524_000 + b'"',
    "nested": b"[" + b",".join([b"[" * 127 + b"]" * 127] * 1500) + b"]",
    "number": b"9" * 1_048_000,
    "astral": b'["' + "😀".encode() * 262_000 + b'"]',
    "members": b"{" + b",".join(b'"%d":1' % number for number in range(100_000)) + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_large_text_takes_no_memory(name: str) -> None:
    """Scan builds nothing of what it reads."""
    tracemalloc.start()
    try:
        walked(Scan(HOSTILE[name], 1 << 20, Pace()).whole())
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


async def test_long_computations_take_turns() -> None:
    """Event loop gets its turn after each step, however many computations there are."""
    running = asyncio.gather(
        *(data.read(HOSTILE["nested"][:100_000] + b"x") for _ in range(20)), return_exceptions=True
    )
    began, worst = time.process_time(), 0.0
    while not running.done():
        await asyncio.sleep(0)
        now = time.process_time()
        began, worst = now, max(worst, now - began)
    assert {type(result) for result in await running} == {MalformedError}
    assert worst < 0.05  # seconds of this process's own: twenty steps are 0.04, twenty texts a second
