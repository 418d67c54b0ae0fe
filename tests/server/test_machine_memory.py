"""How much memory there is, by the limits of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.core.tail import TAIL_BYTES, tail_bytes
from app.server.machine_memory import memory_limit

MIB = 1024 * 1024
GROUPS = {
    "v2, its own limit": ("0::/box\n", {"box/memory.max": f"{512 * MIB}"}),
    "v2, of the group around it": (
        "0::/box/inner\n",
        {"box/inner/memory.max": "max", "box/memory.max": f"{512 * MIB}"},
    ),
    "v2, as a container shows it": ("0::/\n", {"memory.max": f"{512 * MIB}\n"}),
    "v1, its own limit": (
        "9:name=systemd:/\n4:memory:/box\n0::/\n",
        {"memory/box/memory.limit_in_bytes": f"{512 * MIB}", "memory/memory.limit_in_bytes": "9223372036854771712"},
    ),
    "v1, as a container shows it": ("5:cpu,memory:/elsewhere\n", {"memory/memory.limit_in_bytes": f"{512 * MIB}\n"}),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_limit_of_a_container_is_found(tmp_path: Path, case: str) -> None:
    """Limit of a container is found, however its control groups are shown."""
    own, files = GROUPS[case]
    (tmp_path / "own").write_text(own, encoding="utf-8")
    for name, content in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="ascii")
    assert memory_limit(tmp_path / "groups", tmp_path / "own") == 512 * MIB


def test_without_a_limit_the_machine_is_what_there_is(tmp_path: Path) -> None:
    """Machine's memory is the limit where no control group sets one."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit(tmp_path, tmp_path / "nothing") == machine


@pytest.mark.parametrize(("machine", "tails"), [(256, 8), (512, 16), (2048, 64), (65_536, 64)])
def test_the_newest_messages_take_a_part_of_the_memory(machine: int, tails: int) -> None:
    """Newest messages that a process keeps take a thirty-second of the memory there is, and 64 MiB at most."""
    assert tail_bytes(machine * MIB) == tails * MIB <= TAIL_BYTES
