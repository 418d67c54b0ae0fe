"""Several brokers of the Kafka protocol whose leaders tests choose: the cluster that librdkafka is tested with.

It comes with the wheel ``confluent-kafka`` and runs in threads of this process. It gives numbers to batches, topics
have ids and replicas, and leaders are counted. It creates no topics for clients, and has no aborted transactions.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import files
from typing import Any, Self

_PRODUCER = 0
_NOTHING_LOGGED = b"0"
_ERROR_BYTES = 512
FETCH = 1
"""The number of fetches among requests."""


class ElectingCluster:
    """Some brokers, which know no topics. A context manager."""

    def __init__(self, brokers: int = 3) -> None:
        lib, error = _library(), ctypes.create_string_buffer(_ERROR_BYTES)
        options = ctypes.c_void_p(lib.rd_kafka_conf_new())
        lib.rd_kafka_conf_set(options, b"log_level", _NOTHING_LOGGED, error, ctypes.c_size_t(_ERROR_BYTES))
        self._owner = ctypes.c_void_p(lib.rd_kafka_new(_PRODUCER, options, error, ctypes.c_size_t(_ERROR_BYTES)))
        assert self._owner.value, error.value
        self._cluster = ctypes.c_void_p(lib.rd_kafka_mock_cluster_new(self._owner, brokers))

    def __enter__(self) -> Self:
        """Use it, since it runs."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        lib = _library()
        lib.rd_kafka_mock_cluster_destroy(self._cluster)
        lib.rd_kafka_destroy(self._owner)

    def url(self, prefix: str = "") -> str:
        """Return the backend's URL for topics of this prefix."""
        return f"kafka://{_library().rd_kafka_mock_cluster_bootstraps(self._cluster).decode()}/{prefix}"

    def create(self, topic: str) -> None:
        """Create a topic of one partition, with three replicas."""
        assert _library().rd_kafka_mock_topic_create(self._cluster, topic.encode(), 1, 3) == 0

    def lead(self, topic: str, broker: int) -> None:
        """Let a broker lead a topic, from 1 on; none with -1."""
        set_leader = _library().rd_kafka_mock_partition_set_leader
        assert set_leader(self._cluster, topic.encode(), 0, ctypes.c_int32(broker)) == 0

    def refuse(self, broker: int, request: int, code: int) -> None:
        """Let a broker answer the next request of this kind with a code for each topic."""
        push = _library().rd_kafka_mock_broker_push_request_error_rtts
        answer = ctypes.c_int(code), ctypes.c_int(0)
        assert push(self._cluster, ctypes.c_int32(broker), ctypes.c_int16(request), ctypes.c_size_t(1), *answer) == 0


@cache
def _library() -> Any:  # noqa: ANN401 — of ctypes, which knows no types of functions
    (path,) = [file for file in files("confluent-kafka") or [] if ".so" in file.name and "librdkafka" in file.name]
    lib = ctypes.CDLL(str(path.locate()))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return lib
