"""The orientation that an EXIF block states, read as browsers do.

Only the tags of the first directory are looked at. Whatever else in the block is broken, such as a
pointer to nowhere, does not matter. Sources: EXIF 2.32, 4.6.4 (tag 0x0112); TIFF 6.0, section 2.
"""

from __future__ import annotations

from typing import Literal

_PREFIX = b"Exif\x00\x00"
_ORIENTATION, _SHORT = 0x0112, 3
_ENTRY_BYTES = 12


def exif_orientation(block: bytes) -> tuple[int, bool]:
    """The orientation 1..8 in an EXIF block, 1 where it states none, and whether it was readable.

    It was not where viewers may disagree: the block is no TIFF, its directory lies outside or ends
    early without the tag, or the tag is of a type that the specification does not allow. Of several
    tags the first valid one counts.
    """
    block = block.removeprefix(_PREFIX)
    if block[:4] not in (b"II*\x00", b"MM\x00*"):
        return 1, False
    order: Literal["little", "big"] = "little" if block.startswith(b"II") else "big"

    def number(position: int, size: int) -> int:
        return int.from_bytes(block[position : position + size], order)

    start = number(4, 4)
    if len(block) < 8 or start < 8 or start + 2 > len(block):
        return 1, False
    stated = number(start, 2)
    held = min(stated, (len(block) - start - 2) // _ENTRY_BYTES)
    readable = held == stated
    for position in range(start + 2, start + 2 + held * _ENTRY_BYTES, _ENTRY_BYTES):
        if number(position, 2) == _ORIENTATION:
            value = number(position + 8, 2)
            if number(position + 2, 2) != _SHORT or number(position + 4, 4) != 1:
                readable = False
            elif 1 <= value <= 8:
                return value, True
    return 1, readable
