"""What a picture's file holds behind the picture or beside it, found without decoding a pixel.

Plain searches on bytes, used by the run as well as by the decoders. Time and memory are bounded for
any bytes: see `structures` for the steps that a file has.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from moderate.decode.carving import Embedded, Search
from moderate.decode.container_walks import WALKS
from moderate.decode.sniff import VIDEO_FORMATS
from moderate.decode.structures import BoundedBytes, OutOfStepsError

PICTURES = frozenset({"jpeg", "png", "gif", "webp", "bmp", "heif", "avif"})
VIDEOS = frozenset(VIDEO_FORMATS.values())

_SUFFIXES = {"jpeg": "jpg", "heif": "heic", "quicktime": "mov", "matroska": "mkv"}

MOST_EMBEDDED = 20
"""Embedded files of one file that are named each; further ones are not named."""

MOST_SCORED = 16
"""Embedded files of one file that `--embedded score` scores."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds besides its picture: other content, and small copies of the picture."""

    others: tuple[Embedded, ...] = ()
    copies: tuple[Embedded, ...] = ()


def embedded_name(number: int, kind: str) -> str:
    """What rows call an embedded file of this kind, counted from 1 in the file that it is in."""
    return f"embedded-{number}.{_SUFFIXES.get(kind, kind)}"


def find_embedded(data: bytes, kind: str) -> Contents:
    """What a file of this kind (as `sniff` names it) holds besides its picture, in order.

    The pictures that a JPEG's multi-picture index (MPF) lists are left out: they belong to the file
    itself. Never raises, whatever the bytes are.
    """
    walk = WALKS.get(kind)
    if walk is None:
        return Contents()
    search = Search(BoundedBytes(data))
    try:
        walk(search)
    except OutOfStepsError:
        search.note_rest()
    except (IndexError, ValueError, struct.error):  # its structure ends early
        pass
    items = sorted(search.items, key=lambda each: (each.start, each.end))
    copies = tuple(each for each in items if each.is_copy)
    return Contents(tuple(each for each in items if not each.is_copy)[:MOST_EMBEDDED], copies)


def scored_by_itself(contents: Contents, kinds: tuple[str, ...]) -> tuple[Embedded, ...]:
    """The embedded files that get rows of their own, if files of these kinds do."""
    return tuple(each for each in contents.others if each.kind in kinds)[:MOST_SCORED]
