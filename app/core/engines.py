"""The engines that can keep the log, and what each of them gives. What an engine cannot do is refused at start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

History = Literal["none", "process", "configured", "durable"]
"""What the log keeps: nothing, messages for one process's life, what its server is told to keep, or all messages."""

Workers = Literal["one process", "one machine", "any"]
"""Which worker processes can share one log."""

_HISTORY: dict[History, str] = {
    "none": "none: messages are live only, and every reconnect is a gap",
    "process": "until the process ends",
    "configured": "durable, as far as the server's settings make it: the log at start says what a crash loses",
    "durable": "durable: it survives restarts and crashes",
}
_WORKERS: dict[Workers, str] = {
    "one process": "one",
    "one machine": "any number, on one machine",
    "any": "any number, on any number of machines",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of backend."""

    name: str
    """What it is called, as in ``postgres``; also its usual scheme."""
    schemes: tuple[str, ...]
    """The schemes of its URLs, in lower case."""
    history: History
    workers: Workers
    driver: str = ""
    """The package that has to be installed, which is also the name of its module; empty if none has to be."""
    extra: str = ""
    """The extra of ours that installs it."""
    publishes_from_sql: bool = False
    """Whether transactions can publish, too."""
    reads_topics: bool = False
    """Whether a channel can be a topic that others write."""

    @property
    def has_positions(self) -> bool:
        """Whether messages are kept, so that they have positions."""
        return self.history != "none"

    @property
    def gives(self) -> str:
        """Say in one line what it gives."""
        return f"history: {_HISTORY[self.history]}; workers: {_WORKERS[self.workers]}"


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("memory", ("memory",), "process", "one process"),
        Engine("postgres", ("postgres", "postgresql"), "durable", "any", publishes_from_sql=True),
        Engine("kafka", ("kafka", "kafkas"), "durable", "any", driver="aiokafka", extra="kafka", reads_topics=True),
        Engine("redis", ("redis", "rediss"), "none", "any", driver="redis", extra="redis"),
        Engine("sqlite", ("sqlite",), "durable", "one machine"),
        Engine(
            "redis-stream",
            tuple(f"redis{tls}-stream{kind}" for kind in ("", "+cluster", "+sentinel") for tls in ("", "s")),
            "configured",
            "any",
            driver="redis",
            extra="redis",
        ),
    )
}
"""Every engine, by its name."""
