"""Which commits a worker has heard of: up to where it has missed none."""

from __future__ import annotations

_MOST = 10_000
"""The most numbers that are remembered beyond the first that is missing; a look at the heads finds it soon."""


class Heard:
    """Numbers of commits, which are 1, 2, 3, … of all workers together, and may be heard out of turn."""

    def __init__(self) -> None:
        self.upto = 0
        """All commits up to this one were heard, or seen in the log."""
        self._beyond: set[int] = set()

    @property
    def has_hole(self) -> bool:
        """Whether a later commit was heard of than one that was not."""
        return bool(self._beyond)

    def note(self, number: int) -> None:
        """Learn of one commit."""
        if number > self.upto and len(self._beyond) < _MOST:
            self._beyond.add(number)
        self._go_on()

    def skip(self, number: int) -> None:
        """Learn that nothing up to this one was missed."""
        self.upto = max(self.upto, number)
        self._beyond = {one for one in self._beyond if one > self.upto}
        self._go_on()

    def _go_on(self) -> None:
        while self.upto + 1 in self._beyond:
            self.upto += 1
            self._beyond.remove(self.upto)
