"""Load on a running server; see README.md here. This file only ties the parts together."""

from __future__ import annotations

from locust import events
from locust.env import Environment
from locust.runners import Runner, WorkerRunner

from loadtests import shapes
from loadtests.closing import Closing
from loadtests.options import add_options, options_of
from loadtests.reconciliation import Ledger
from loadtests.users import PublisherUser, ReconnectStormUser, SubscriberUser
from loadtests.verdict import Verdict

__all__ = ["PublisherUser", "ReconnectStormUser", "SubscriberUser"]


def _wire(environment: Environment, runner: Runner, **_: object) -> None:
    options = options_of(environment)
    ledger = PublisherUser.ledger = SubscriberUser.ledger = Ledger()
    closing = Closing(runner, ledger, options.patience)
    if isinstance(runner, WorkerRunner):
        environment.events.test_start.add_listener(lambda **_: closing.begin())
        return
    if options.shape:
        environment.shape_class = shapes.SHAPES[options.shape]()
        environment.shape_class.runner = runner
    Verdict(environment, runner, closing)


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(_wire)
