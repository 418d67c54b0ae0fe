"""How a worker collects garbage."""

from __future__ import annotations

import gc

THRESHOLD = (50_000, 20, 100)
"""New objects before a collection of the youngest generation, and collections before one of the next generations."""


def settle() -> None:
    """Exempt everything that start-up has loaded, and collect the rest seldom; call it once, before serving.

    By default the collector would walk all connections again and again. Each walk stops the process for 10 ms or more,
    and finds nothing: connections are freed by their reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)
