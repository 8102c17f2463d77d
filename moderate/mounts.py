"""Which files are mounted by themselves, as containers mount a single file into theirs."""

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


def _character(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8) & 0xFF])
