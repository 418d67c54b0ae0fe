"""What the Dockerfile says, for those that hold it against something else."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from tests.support.processes import ROOT

_CONTINUED = re.compile(r"\\\n\s*")


def instructions(text: str) -> list[tuple[str, str]]:
    """Return each instruction with its arguments, comments left out and continued lines joined."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = filter(None, _CONTINUED.sub(" ", code).splitlines())
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


class Dockerfile:
    """The instructions of the project's Dockerfile; those of the last stage where not said otherwise."""

    def __init__(self) -> None:
        self.text = (ROOT / "Dockerfile").read_text()
        self.all = instructions(self.text)
        last = max(index for index, (name, _) in enumerate(self.all) if name == "FROM")
        self.last = self.all[last:]

    @property
    def bases(self) -> set[str]:
        """The images that stages begin with, where no argument of the build says otherwise."""
        defaults = dict(rest.split("=", 1) for name, rest in self.all if name == "ARG")
        images = (rest.split()[0] for name, rest in self.all if name == "FROM")
        return {re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], image) for image in images}

    @property
    def environment(self) -> dict[str, str]:
        """The variables of ENV."""
        words = [word for rest in self.arguments("ENV") for word in shlex.split(rest)]
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    @property
    def entrypoint(self) -> Any:  # noqa: ANN401 — JSON
        """ENTRYPOINT, as an array if it is one."""
        return json.loads(self.arguments("ENTRYPOINT")[-1])

    @property
    def command(self) -> Any:  # noqa: ANN401 — JSON
        """CMD, as an array if it is one."""
        return json.loads(self.arguments("CMD")[-1])

    @property
    def health(self) -> Any:  # noqa: ANN401 — JSON
        """The command of HEALTHCHECK."""
        return json.loads(self.arguments("HEALTHCHECK")[-1].partition(" CMD ")[2])

    @property
    def copied(self) -> list[tuple[str, str]]:
        """What COPY takes from the context: each source with the folder or file that it becomes."""
        pairs = (rest.split() for name, rest in self.all if name == "COPY" and not rest.startswith("--from"))
        return [(source, target) for source, target in pairs]

    def arguments(self, name: str) -> list[str]:
        """Return the arguments of every such instruction."""
        return [rest for found, rest in self.last if found == name]
