"""The options that locust gets from us; each has its ``LOCUST_…`` variable, as locust's own have."""

from __future__ import annotations

from argparse import Namespace

from locust.argument_parser import LocustArgumentParser
from locust.env import Environment


def add_options(parser: LocustArgumentParser) -> None:
    """Add them to locust's own. Keys are not among them: a command line is no place for them, nor is the master."""
    for name, kind, default, text in (
        ("channels", str, "lebowski", "by comma: subscribers are dealt to them, publishers publish to each in turn"),
        ("publish-rate", float, 2.0, "messages a second of each publisher"),
        ("message-bytes", int, 128, "size of a message as JSON, roughly"),
        ("storm-seconds", float, 10.0, "how often all ReconnectStormUsers drop their connections at once"),
        ("patience", float, 10.0, "seconds that answers and stragglers have at the end"),
        ("max-p99", float, 500.0, "fail if the probe's p99 of fan-out is more milliseconds"),
        ("max-failures", int, 0, "fail if more requests and connections failed"),
        ("max-holes", int, 0, "fail if subscribers missed more messages"),
        ("max-doubles", int, 0, "fail if subscribers got more messages twice"),
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
    """Return the options of a run, ours and locust's own; the master's go before a worker's."""
    assert environment.parsed_options is not None  # noqa: S101 — it is only None where locust is used as a library
    options: Namespace = environment.parsed_options
    return options
