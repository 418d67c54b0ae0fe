"""Requests of Kafka's protocol that aiokafka does not have: topics with their ids, and where leaders began."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

_ID_BYTES = 16


class _Uuid(AbstractType[str]):
    """An id, as 32 hexadecimal digits."""

    @classmethod
    def encode(cls, value: str) -> bytes:
        return bytes.fromhex(value)

    @classmethod
    def decode(cls, data: BytesIO) -> str:
        return data.read(_ID_BYTES).hex()


NO_ID = "0" * 2 * _ID_BYTES
"""The id of a topic of a broker that gives none."""

_TEXT = CompactString("utf-8")


class _TopicsResponse(Response):
    API_KEY = 3
    API_VERSION = 11
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(
            ("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), ("tags", TaggedFields),
        )),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        ("topics", CompactArray(
            ("error_code", Int16),
            ("name", _TEXT),
            ("id", _Uuid),
            ("is_internal", Boolean),
            ("partitions", CompactArray(
                ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                ("replicas", CompactArray(Int32)), ("isr", CompactArray(Int32)), ("offline", CompactArray(Int32)),
                ("tags", TaggedFields),
            )),
            ("operations", Int32),
            ("tags", TaggedFields),
        )),
        ("tags", TaggedFields),
    )  # fmt: skip


class _TopicsStruct(RequestStruct):
    API_KEY = 3
    API_VERSION = 11
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("id", _Uuid), ("name", _TEXT), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicsRequest(Request[_TopicsStruct]):
    """Asks for the brokers, and for topics by their names. It creates none."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_TopicsStruct]) -> _TopicsStruct:
        """Return what is sent."""
        topics: list[Any] = [(NO_ID, name, {}) for name in self._topics]
        return request_struct_class(topics, False, False, {})  # noqa: FBT003 — by position


class _LeadersResponse(Response):
    API_KEY = 23
    API_VERSION = 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("topics", Array(
            ("topic", String("utf-8")),
            ("partitions", Array(
                ("error_code", Int16), ("partition", Int32), ("leader_epoch", Int32), ("end_offset", Int64),
            )),
        )),
    )  # fmt: skip


class _LeadersStruct(RequestStruct):
    API_KEY = 23
    API_VERSION = 2
    RESPONSE_TYPE = _LeadersResponse
    SCHEMA = Schema(
        ("topics", Array(
            ("topic", String("utf-8")),
            ("partitions", Array(("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32))),
        )),
    )  # fmt: skip


class LeadersRequest(Request[_LeadersStruct]):
    """Asks where leaders' epochs ended in the one partition of topics (OffsetForLeaderEpoch); each once."""

    API_KEY = 23

    def __init__(self, wanted: Sequence[tuple[str, int]]) -> None:
        self._wanted = wanted

    def build(self, request_struct_class: type[_LeadersStruct]) -> _LeadersStruct:
        """Return what is sent."""
        return request_struct_class([(topic, [(0, -1, epoch)]) for topic, epoch in self._wanted])
