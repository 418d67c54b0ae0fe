"""How a process that serves collects garbage."""

from __future__ import annotations

import gc

THRESHOLD = (50_000, 20, 100)
"""Objects made before the young are looked at, and how seldom the older ones are."""


def settle() -> None:
    """Look away from all that was loaded to start, and seldom at the rest; call it once, before serving.

    The collector would walk all connections again and again, 10 ms and more each time while nothing
    else runs, and finds nothing: they are freed by their counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)
