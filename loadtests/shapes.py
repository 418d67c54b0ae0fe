"""How users come and go over a run; -u sets the most users, and -t how long the run takes."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from locust import LoadTestShape

from loadtests.options import options_of

MOST_A_SECOND = 100.0  # locust warns of more


class Stage(NamedTuple):
    """Runs this share of the users from the end of the previous stage until this share of the run."""

    until: float
    users: float


class StagedShape(LoadTestShape):
    """A shape made of stages."""

    abstract = True
    use_common_options = True
    stages: ClassVar[tuple[Stage, ...]]
    seconds: ClassVar[float] = 60.0
    """How long it takes without -t."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users for now and how fast they start; None at the end."""
        assert self.runner is not None  # noqa: S101 — locust sets it before it asks
        options = options_of(self.runner.environment)
        part = self.get_run_time() / (options.run_time or self.seconds)  # type: ignore[no-untyped-call]  # locust's
        for stage in self.stages:
            if part < stage.until:
                return max(1, round(stage.users * (options.num_users or 1))), MOST_A_SECOND
        return None


class RampShape(StagedShape):
    """Ten steps of equal height and length, to see which load is too much."""

    abstract = False
    stages = tuple(Stage(step / 10, step / 10) for step in range(1, 11))


class SpikeShape(StagedShape):
    """A tenth of the users, then all of them at once for a fifth of the run, then a tenth again."""

    abstract = False
    stages = (Stage(0.4, 0.1), Stage(0.6, 1.0), Stage(1.0, 0.1))


class SoakShape(StagedShape):
    """All users for an hour, or for the time of -t."""

    abstract = False
    stages = (Stage(1.0, 1.0),)
    seconds = 3600.0


SHAPES: dict[str, type[StagedShape]] = {"ramp": RampShape, "spike": SpikeShape, "soak": SoakShape}
