"""Spans of a message's way, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from websockets.sync.client import connect

from tests.conftest import ServerFactory
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP/HTTP on a port of 127.0.0.1."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.changed = threading.Condition()
        self.spans: list[Any] = []
        self.services: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self.changed:
            for resource in request.resource_spans:
                self.services |= {item.value.string_value for item in resource.resource.attributes
                                  if item.key == "service.name"}  # fmt: skip
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.changed.notify_all()

    def wait(self, count: int) -> dict[str, Any]:
        """Return the spans by their names when there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.spans) >= count, timeout=10), self.spans
            return {span.name: span for span in self.spans}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.take(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — http.server's own
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def exporting(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture
def server(server_factory: ServerFactory, collector: Collector) -> Server:
    return server_factory(env=exporting(collector))


def test_a_message_is_traced_from_push_to_fanout(server: Server, collector: Collector) -> None:
    """Push with a traceparent is the parent of publish, commit, wake-up and fan-out, in this order."""
    with connect(f"{server.ws_url}/news") as first, connect(f"{server.ws_url}/news") as second:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert httpx.post(f"{server.url}/push/news", json="x", headers=headers).status_code == 200
        assert first.recv(timeout=5) == second.recv(timeout=5) == '"x"'
    spans = collector.wait(4)
    way = [spans[name] for name in ("publish", "commit", "wake-up", "fan-out")]
    assert {span.trace_id.hex() for span in way} == {TRACE}
    assert [span.parent_span_id.hex() for span in way] == [PARENT, *(span.span_id.hex() for span in way[:-1])]
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in way)
    deliveries = {item.key: item.value.int_value for item in spans["fan-out"].attributes}
    assert (deliveries["abide.offset"], deliveries["abide.deliveries"]) == (1, 2)
    assert collector.services == {"abide"}


@pytest.mark.parametrize("root_path", ["", "/realtime"])
def test_a_push_without_a_parent_begins_its_own_trace(
    server_factory: ServerFactory, collector: Collector, root_path: str
) -> None:
    """Push without a traceparent begins a trace of its own; nobody to deliver to, no fan-out; a stop sends the rest."""
    server = server_factory(env=exporting(collector) | {"ROOT_PATH": root_path})
    assert httpx.post(f"{server.url}{root_path}/push/news", json="x").status_code == 200
    assert server.stop() == 0
    spans = collector.wait(2)
    assert set(spans) == {"publish", "commit"}
    assert spans["publish"].parent_span_id == b""
    assert spans["commit"].parent_span_id == spans["publish"].span_id


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:1"])
def test_it_is_loaded_only_where_it_is_wanted(endpoint: str) -> None:
    """Application imports OpenTelemetry's SDK with an endpoint, and not without."""
    code = "import sys, app.main; app.main.create_app(); print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout == f"{bool(endpoint)}\n"


def test_a_server_without_the_packages_warns_and_serves(server_factory: ServerFactory, tmp_path: Path) -> None:
    """Server without the packages serves all the same, and says in a warning what to install."""
    package = tmp_path / "opentelemetry/exporter"  # found before the installed one
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not here')\n")
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": str(tmp_path)}
    server = server_factory(env=env)
    line = server.wait_log(lambda line: line["event"] == "tracing_off")
    assert "extra 'tracing'" in line["detail"]
    assert httpx.post(f"{server.url}/push/news", json="x").status_code == 200
