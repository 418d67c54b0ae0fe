"""Frames without I/O: what the reader makes of any pieces of what clients send."""

from __future__ import annotations

import builtins
import importlib.util
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire import frames
from app.wire.frames import FrameError, FrameReader
from tests.support.wire import BINARY, CLOSE, CONTINUATION, MASK, PING, PONG, TEXT, frame, masked

LIMIT = 100_000

payloads = st.one_of(st.binary(max_size=200), st.sampled_from([125, 126, 127, 65535, 65536]).map(bytes))
texts = st.one_of(st.text(max_size=50), st.sampled_from(["x" * 126, "é" * 32768])).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
control = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return a valid sequence of frames, and the control frames and messages that it has, in their order."""
    sent, expected = b"", []
    for _ in range(draw(st.integers(1, 5))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        data = draw(texts if opcode == TEXT else payloads)
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for number, piece in enumerate(pieces):
            for between in draw(st.lists(control, max_size=2)):
                sent += frame(*between, mask=draw(masks))
                expected.append(between)
            last = number == len(pieces) - 1
            sent += frame(opcode if number == 0 else CONTINUATION, piece, fin=last, mask=draw(masks))
        expected.append((opcode, data))
    return sent, expected


def read(*pieces: bytes, limit: int = LIMIT) -> list[tuple[int, bytes]]:
    """Return what one reader makes of the pieces."""
    reader, frames = FrameReader(limit), []
    for piece in pieces:
        reader.feed(piece)
        while (one := reader.next()) is not None:
            frames.append(one)
    assert reader.is_empty
    return frames


@settings(deadline=None)
@given(conversations(), st.data())
def test_messages_are_the_same_however_they_are_cut(
    conversation: tuple[bytes, list[tuple[int, bytes]]], data: st.DataObject
) -> None:
    """Reader makes the same messages of a valid conversation, however it is cut."""
    sent, expected = conversation
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=20)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert read(*pieces) == expected


@settings(deadline=None)
@given(conversations(), st.data())
def test_an_empty_reader_can_be_replaced(
    conversation: tuple[bytes, list[tuple[int, bytes]]], data: st.DataObject
) -> None:
    """Reader that is empty can be replaced by another one, without a trace."""
    sent, expected = conversation
    size = data.draw(st.integers(1, len(sent)))
    reader, frames = FrameReader(LIMIT), []
    for at in range(0, len(sent), size):
        reader.feed(sent[at : at + size])
        while (one := reader.next()) is not None:
            frames.append(one)
        if reader.is_empty:
            reader = FrameReader(LIMIT)
    assert frames == expected


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_a_frame_error(data: bytes) -> None:
    """Reader answers whatever comes with frames or with FrameError."""
    reader = FrameReader(LIMIT)
    reader.feed(data)
    code = 1000
    try:
        while reader.next() is not None:
            pass
    except FrameError as error:
        code = error.code
    assert code in {1000, 1002, 1007, 1009}


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_header_may_be_split_at_every_byte(size: int) -> None:
    """Reader takes a frame whose header is split at every byte."""
    whole = frame(BINARY, bytes(size))
    end = len(whole) - size
    assert read(*(bytes([byte]) for byte in whole[:end]), whole[end:]) == [(BINARY, bytes(size))]


def test_many_frames_are_read_from_one_piece() -> None:
    """Reader takes many frames from one piece."""
    assert len(read(frame(TEXT, b"x") * 10_000)) == 10_000


def test_an_unfinished_message_takes_no_more_than_its_bytes() -> None:
    """Reader keeps no more of an unfinished message than its bytes."""
    reader = FrameReader(LIMIT)
    reader.feed(frame(BINARY, bytes(10), fin=False) + frame(PING, b"x"))
    assert reader.next() == (PING, b"x")
    assert reader.next() is None
    assert reader.size == 10
    assert not reader.is_empty


def test_a_frame_that_is_put_back_comes_first() -> None:
    """Reader returns a frame that was put back before all others."""
    reader = FrameReader(LIMIT)
    reader.feed(frame(TEXT, b"second"))
    reader.put_back((TEXT, b"first"))
    assert not reader.is_empty
    assert [reader.next(), reader.next()] == [(TEXT, b"first"), (TEXT, b"second")]


@pytest.mark.parametrize(
    "piece",
    [
        frame(BINARY, bytes(101))[:2],
        frame(BINARY, bytes(200))[:4],
        frame(BINARY, bytes(70_000))[:10],
        frame(BINARY, bytes(60), fin=False) + frame(CONTINUATION, bytes(41))[:2],
        frame(BINARY, b"x", fin=False) * 1 + frame(CONTINUATION, b"x", fin=False) * 100,
    ],
    ids=["7 bits", "16 bits", "64 bits", "two fragments", "small fragments"],
)
def test_a_message_over_the_limit_is_refused_at_its_header(piece: bytes) -> None:
    """Reader refuses a message over the limit at the header that announces it."""
    with pytest.raises(FrameError, match="over 100 bytes") as refused:
        read(piece, limit=100)
    assert refused.value.code == 1009


def test_a_control_frame_is_never_too_big() -> None:
    """Reader takes control frames whatever the limit is, and a message of just the limit."""
    sent = frame(BINARY, bytes(60), fin=False) + frame(PING, bytes(125)) + frame(CONTINUATION, bytes(40))
    assert read(sent, limit=100) == [(PING, bytes(125)), (BINARY, bytes(100))]


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 1_100_000])
def test_a_sent_frame_has_the_shortest_length(size: int) -> None:
    """Server's frame has the shortest length that fits."""
    sent = frames.frame(frames.BINARY, bytes(size))
    assert sent == frame(BINARY, bytes(size), mask=None)


def test_a_long_reason_is_cut_between_characters() -> None:
    """Server's close cuts a long reason between two characters."""
    assert frames.close_frame(4400, "é" * 100) == frame(CLOSE, b"\x11\x30" + "é".encode() * 61, mask=None)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_a_close_code_that_means_none_is_not_sent(code: int) -> None:
    """Server refuses to send a close code that stands for none."""
    with pytest.raises(ValueError, match=str(code)):
        frames.close_frame(code)


@given(st.binary(max_size=40), masks)
def test_frames_are_unmasked_without_the_extension_too(data: bytes, mask: bytes) -> None:
    """Server unmasks just the same where the C extension of websockets is missing."""
    assert _slow.apply_mask(bytearray(data), mask) == masked(data, mask) == _fast.apply_mask(data, mask)


def test_the_rfcs_masked_example_is_read() -> None:
    """Server unmasks the RFC's own example."""
    assert _fast.apply_mask(bytes.fromhex("7f9f4d5158"), MASK) == b"Hello"


def _without_the_extension() -> ModuleType:
    """Load the module once more as if websockets had no C extension."""

    def refuse(name: str, *args: Any, **kwargs: Any) -> ModuleType:  # noqa: ANN401 — Python's own
        if name == "websockets.speedups":
            raise ImportError(name)
        module: ModuleType = original(name, *args, **kwargs)
        return module

    original = builtins.__import__
    spec = importlib.util.find_spec("app.wire.frames")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    builtins.__import__ = refuse
    try:
        spec.loader.exec_module(module)
    finally:
        builtins.__import__ = original
    return module


_slow = _without_the_extension()
_fast: Any = frames
