"""Our options for locust. Each has a ``LOCUST_…`` variable, as locust's own options do."""

from __future__ import annotations

from argparse import Namespace

from locust.argument_parser import LocustArgumentParser
from locust.env import Environment


def add_options(parser: LocustArgumentParser) -> None:
    """Add our options to locust's. Keys are not options, because command lines and the master must not see them."""
    for name, kind, default, text in (
        ("channels", str, "lebowski", "comma-separated; subscribers are spread over them"),
        ("publish-rate", float, 2.0, "messages per second of each publisher"),
        ("message-bytes", int, 128, "approximate size of a message as JSON, in bytes"),
        ("storm-seconds", float, 10.0, "how often all ReconnectStormUsers drop their connections at once"),
        ("patience", float, 10.0, "seconds to wait at the end for answers and late messages"),
        ("max-p99", float, 500.0, "fail if the probe's fan-out p99 exceeds this many milliseconds"),
        ("max-failures", int, 0, "fail if more requests and connections fail than this"),
        ("max-holes", int, 0, "fail if subscribers miss more messages than this"),
        ("max-doubles", int, 0, "fail if subscribers get more messages twice than this"),
        ("summary", str, "", "write reconciliation and percentiles to this JSON file"),
    ):
        parser.add_argument(
            f"--{name}",
            type=kind,
            default=default,
            env_var=f"LOCUST_{name.upper().replace('-', '_')}",
            help=text if default == "" else f"{text} ({default})",
        )
    parser.add_argument(
        "--shape",
        choices=("ramp", "spike", "soak"),
        env_var="LOCUST_SHAPE",
        help="how users come and go: -u and -t say how many and how long",
    )


def options_of(environment: Environment) -> Namespace:
    """Return the options of a run, ours and locust's own; the master's override a worker's."""
    assert environment.parsed_options is not None  # noqa: S101 — it is only None where locust is used as a library
    options: Namespace = environment.parsed_options
    return options
