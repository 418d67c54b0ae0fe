"""Which file system a path is on, and whether that is a disk of this machine."""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")

_SHARED = frozenset(
    (
        "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph", "glusterfs", "lustre", "gpfs",
        "beegfs", "orangefs", "pvfs2", "ocfs2", "gfs", "gfs2", "davfs", "davfs2", "acfs", "panfs", "quobyte",
    )
)  # fmt: skip
"""Types of file systems that several machines can mount at once."""

_SHARED_FUSE = re.compile(
    "fuse[.](.*(s3|gcs|blob|azure|nfs|smb|ceph|gluster|ssh|rclone|juice|lizard|moose|mfs|weed|goofys|dav|hdfs).*)"
)

_ESCAPE = re.compile(r"\\([0-7]{3})")


def shared_type(folder: Path) -> str | None:
    """Return the type of the folder's file system if other machines can mount it, too; None if it is a local disk.

    Where the system does not tell (it is not Linux), the answer is None.
    """
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    kind = type_of(folder.resolve(), lines)
    return kind if kind in _SHARED or _SHARED_FUSE.fullmatch(kind) else None


def type_of(folder: Path, lines: list[str]) -> str:
    """Return the type of the file system that a folder is on, by the lines of ``mountinfo``; "" if none is its."""
    found, depth = "", -1
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mounted = Path(_ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields.split(" ")[4]))
        if len(mounted.parts) >= depth and folder.is_relative_to(mounted):  # of two in one place the later one counts
            found, depth = rest.split(" ")[0], len(mounted.parts)
    return found
