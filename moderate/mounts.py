"""What is mounted where: files by themselves, as containers have them, and the types of mounts."""

from __future__ import annotations

import os
import re

MOUNTS = "/proc/self/mountinfo"
"""Where Linux lists what is mounted, and where."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def is_mount_point(path: str) -> bool:
    """Whether something is mounted at exactly `path`, an absolute path without symbolic links.

    False where the system does not tell. A file so mounted can be written to, but not replaced.
    """
    try:
        with open(MOUNTS, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    # The fifth field is the place, with white space and backslashes as octal numbers.
    places = (fields[4] for line in lines if len(fields := line.split(b" ")) > 4)
    exact = os.fsencode(path)
    return any(_ESCAPE.sub(_character, place) == exact for place in places)


def mount_type(device: int) -> str | None:
    """The type of the file system of this device (an `st_dev`), as `mount` calls it.

    It tells programs behind FUSE apart: `fuse.sshfs`. None where the system does not tell.
    """
    number = b"%d:%d" % (os.major(device), os.minor(device))
    try:
        with open(MOUNTS, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        before, dash, after = line.partition(b" - ")
        fields = before.split(b" ")
        if dash and len(fields) > 2 and fields[2] == number:
            return after.split(b" ")[0].decode("ascii", "backslashreplace")
    return None


def _character(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8) & 0xFF])
