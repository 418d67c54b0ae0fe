"""The small disk is full when it is to be, and has room again."""

from __future__ import annotations

import errno

import pytest

from tests.support.small_disk import SmallDisk


def test_a_small_disk_is_full_until_it_is_freed() -> None:
    """Disk that is filled takes not one byte more, and takes some again once it is freed."""
    with SmallDisk() as disk:
        disk.fill()
        with pytest.raises(OSError, match=r"No space left") as raised, (disk.path / "more").open("wb") as file:
            file.write(b"1")
        assert raised.value.errno == errno.ENOSPC
        disk.free()
        assert (disk.path / "more").write_bytes(b"1") == 1
    assert not disk.path.exists()
