"""The work of the master, or the only process, around a run: the probe, the closing, the exit code and the summary."""

from __future__ import annotations

import sys
from pathlib import Path

from flask import Response, request
from locust.env import Environment
from locust.runners import Runner

from loadtests import summary
from loadtests.closing import Closing
from loadtests.options import options_of
from loadtests.probing import Probe
from loadtests.thresholds import Limits, Outcome, judge

REPORT = "/stats/report"
NOT_OVER = "The run has not ended: reconciliation and verdict come when it stops."


class Verdict:
    """Follows the runs of one environment and judges the last one."""

    def __init__(self, environment: Environment, runner: Runner, closing: Closing) -> None:
        self._environment, self._runner, self._closing = environment, runner, closing
        self._options = options_of(environment)
        self._probe = Probe(self._heard)
        self._is_over = False
        if environment.web_ui is not None and environment.web_ui.app is not None:
            environment.web_ui.app.after_request(self._complete)
        events = environment.events
        events.test_start.add_listener(self._start)
        events.test_stopping.add_listener(self._stop)
        events.quitting.add_listener(self._judge)

    def _start(self, **_: object) -> None:
        self._is_over = False
        self._closing.begin()
        self._probe.start(str(self._environment.host), self._options.channels.split(","))

    def _stop(self, **_: object) -> None:
        self._closing.close()
        self._probe.stop()
        self._is_over = True

    def _heard(self, milliseconds: float) -> None:
        self._environment.events.request.fire(
            request_type="PROBE",
            name="fan-out",
            response_time=milliseconds,
            response_length=0,
            exception=None,
            context={},
        )

    def _judge(self, **_: object) -> None:
        self._stop()  # after Ctrl-C and SIGTERM locust quits before it stops
        outcome, options = self._outcome(), self._options
        reasons = judge(outcome, self._limits())
        text = summary.as_text(outcome, reasons)
        sys.stdout.write(text + "\n")
        if options.summary:
            Path(options.summary).write_text(summary.as_json(outcome, reasons), encoding="utf-8")
        if options.html_file and Path(options.html_file).exists():
            summary.add_to_page(Path(options.html_file), text)
        self._environment.process_exit_code = 1 if reasons else 0

    def _complete(self, answer: Response) -> Response:
        """Add the summary below the report that locust's page shows or offers for download."""
        if request.path.endswith(REPORT) and answer.mimetype == "text/html":
            outcome = self._outcome()
            text = summary.as_text(outcome, judge(outcome, self._limits())) if self._is_over else NOT_OVER
            answer.set_data(summary.under(answer.get_data(as_text=True), text))
        return answer

    def _limits(self) -> Limits:
        options = self._options
        return Limits(options.max_p99, options.max_failures, options.max_holes, options.max_doubles)

    def _outcome(self) -> Outcome:
        return Outcome(
            rows=self._closing.rows,
            heads=self._closing.heads,
            latencies=self._probe.latencies,
            failures=self._environment.stats.total.num_failures,
            exceptions=sum(exception["count"] for exception in self._runner.exceptions.values()),
            silent_workers=len(self._closing.silent),
        )
