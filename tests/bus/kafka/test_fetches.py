"""Fetches as they are on the wire: what aiokafka's own types write and read."""

from io import BytesIO

import pytest
from aiokafka.protocol import fetch

from app.bus.kafka.brokers.fetch import FetchRequest

VERSIONS = {1: (4, 11)}


def test_a_fetch_is_written_as_aiokafka_does() -> None:
    """Request for several topics has the bytes of aiokafka's."""
    ours = FetchRequest([("a", -1, 5), ("chat.ü", -1, 2**40)], wait=0.25, most=4096, most_of_one=512)
    theirs = fetch.FetchRequest(250, 1, 4096, 1, [("a", [(0, 5, 512)]), ("chat.ü", [(0, 2**40, 512)])])
    assert ours.prepare(VERSIONS).encode() == theirs.prepare(VERSIONS).encode()


def test_what_brokers_say_is_read_as_aiokafka_does() -> None:
    """Answer has each topic's code, head, oldest offset, aborted transactions and records; what is missing is empty."""
    topics = [
        ("a", [(0, 0, 9, 8, 2, [(7, 3), (6, 4)], -1, b"records")]),
        ("chat.ü", [(0, 3, -1, -1, -1, None, -1, None)]),
        ("quiet", [(0, 0, 4, 4, 0, [], -1, b"")]),
    ]
    answer = fetch.FetchResponse_v11(0, 0, 0, topics).encode()
    response = FetchRequest([], wait=0, most=1, most_of_one=1).prepare(VERSIONS).RESPONSE_TYPE
    assert response.decode(BytesIO(answer)).get_item("parts") == [
        ("a", 0, 8, 2, [(7, 3), (6, 4)], b"records"),
        ("chat.ü", 3, 0, 0, (), b""),
        ("quiet", 0, 4, 0, (), b""),
    ]
    with pytest.raises(ValueError, match="unpack_from requires"):
        response.decode(BytesIO(answer[:-30]))
