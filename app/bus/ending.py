"""Whether a task that begins again after every failure was told to end."""

from __future__ import annotations

import asyncio


def is_ending() -> bool:
    """Whether the present task was cancelled. A TaskGroup loses a cancellation that meets a failure, so ask."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
