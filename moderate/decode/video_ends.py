"""Whether a video file was cut off, for containers that say so by their structure alone.

FFmpeg takes the end of an AVI file or of an MPEG stream for granted, wherever it is, and estimates
the duration from what is there. These functions read the structure themselves. Each costs bounded
time and memory, whatever the file claims.
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO

_MOST_RIFF_CHUNKS = 10_000  # of an AVI file, each of about a gigabyte in files that are not hostile
_SLACK = 16  # bytes; some programs count the header of a RIFF chunk as part of it
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # of a recording that was never finished, or is over 4 GB
_TAIL_BYTES = 256 << 10  # four times the longest packet of an MPEG program stream
_MOST_STARTS = 1000  # places in the tail from which its packets are followed
_PADDING = b"\x00\xff"

_PACK, _END_CODE = 0xBA, 0xB9
_SLICE = re.compile(rb"\x00\x00\x01([\x01-\xaf])")
_PICTURE_EXTENSION = re.compile(rb"\x00\x00\x01\xb5[\x80-\x8f].(.)", re.DOTALL)
_FRAME_PICTURE = 3
_MOST_ROWS = 0xAF  # rows of 16 pixels that slices number plainly


def breaks_off(file: BinaryIO, demuxer: str) -> bool:
    """Whether the container's own structure goes on where the file ends.

    demuxer is FFmpeg's name; False for those that are not looked at here. Moves the file's
    position. Raises OSError.
    """
    if demuxer == "avi":
        return _riff_breaks_off(file)
    return demuxer == "mpeg" and _program_stream_breaks_off(file)


def lacks_rows(picture: bytes, height: int) -> bool:
    """Whether the last picture of an MPEG-2 stream ends before its last row.

    picture is the coded picture, height is in pixels. Slices are numbered by their row of 16 pixels
    (ISO/IEC 13818-2, 6.2.4 and 6.3.16); a field has half the rows of a frame. Slices of MPEG-1,
    whose pictures have no extension, may go on over several rows: nothing is known of those.
    """
    slices = _SLICE.findall(picture)
    extensions = _PICTURE_EXTENSION.findall(picture)
    if not extensions:
        return False
    is_frame = extensions[-1][0] & 3 == _FRAME_PICTURE
    rows = -(-height // (16 if is_frame else 32))
    return rows <= _MOST_ROWS and (not slices or slices[-1][0] < rows)


def _riff_breaks_off(file: BinaryIO) -> bool:
    """An AVI file is a RIFF chunk, and RIFF chunks of type AVIX after it where it is large."""
    size = file.seek(0, os.SEEK_END)
    position = 0
    for _ in range(_MOST_RIFF_CHUNKS):
        file.seek(position)
        header = file.read(12)
        if len(header) < 12 or header[:4] != b"RIFF":
            return False
        claimed = int.from_bytes(header[4:8], "little")
        if claimed in _UNKNOWN_SIZES:
            return False
        position += 8 + claimed
        if position > size + _SLACK:
            return True
        position += claimed & 1
    return False


def _program_stream_breaks_off(file: BinaryIO) -> bool:
    """Whether no chain of packs and packets (ISO/IEC 13818-1, 2.5.3) leads to the file's end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    end = len(tail.rstrip(_PADDING))
    place = -1
    for _ in range(_MOST_STARTS):
        place = tail.find(b"\x00\x00\x01\xba", place + 1)
        if place < 0:
            return True
        if _leads_to_end(tail, place, end):
            return False
    return True


def _leads_to_end(data: bytes, place: int, end: int) -> bool:
    """Whether the packets from here on are whole and end at `end`, or in the padding behind it."""
    while place < end:
        if data[place : place + 3] != b"\x00\x00\x01" or place + 6 > len(data):
            return place + 4 <= end and data[place : place + 4] == b"\x00\x00\x01\xb9"
        code = data[place + 3]
        if code == _END_CODE:
            place += 4
        elif code == _PACK:
            is_mpeg2 = data[place + 4] >> 6 == 1
            stuffing = data[place + 13] & 7 if is_mpeg2 and place + 13 < len(data) else 0
            place += 14 + stuffing if is_mpeg2 else 12
        elif code > _PACK:
            place += 6 + int.from_bytes(data[place + 4 : place + 6], "big")
        else:
            return False
    return place <= len(data)
