"""The container of AVIF, read without decoding a pixel.

Sources: the AVIF specification 1.1, and those of `moderate.decode.heif` for the container, which is
the same; the AV1 bitstream specification, 5.3 to 5.5, for the size that is coded in the image data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.decode.containers import MAX_FRAMES_COUNTED, Container
from moderate.decode.heif import (
    Box,
    Fields,
    Items,
    children,
    corrupt,
    cut_off,
    descend,
    errors_of,
    top_level_boxes,
)

_MAX_SAMPLES = 1_000_000  # of a track; bounds the memory that a header of 100 bytes can ask for
_MAX_UNITS = 10_000  # OBUs of one coded image
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6  # obu_type
_SAMPLE_ENTRY_BYTES = 78  # of a VisualSampleEntry before its boxes
_UNKNOWN_KIND = b"skip"


LARGEST_AREA, LARGEST_SIDE = 1 << 28, 1 << 15
"""Pixels; the limits of libavif, which Pillow does not let anybody lift."""


def read_avif(data: bytes) -> Container:
    """Check that all data of the primary image, and of all frames of a sequence, is in the file.

    Container.size is the largest that the header or the data of the primary image or of the first
    frame states: the data may be of a larger image than the header says. crop is the visible part,
    where there is less. unreached says that the file also has a sequence or a still image that the
    decoder leaves out. EXIF is hidden from the decoder: viewers ignore its orientation in AVIF, and
    a broken block would cost the image. exif has it, because of its thumbnail. Raises DecodeError:
    `truncated`, or `corrupt_image`.
    """
    with errors_of("AVIF"):
        return _read(data)


def _read(data: bytes) -> Container:
    metas: list[Box] = []
    tracks: list[_Track] = []
    hidden: list[int] = []
    for box in top_level_boxes(data):
        if box.kind == b"meta":
            metas.append(Box(box.kind, box.start + 4, box.end))
        elif box.kind == b"moov":
            found = descend(data, [box], b"trak")
            tracks += [track for each in found if (track := _read_track(data, each))]
            for meta in descend(data, found, b"meta"):
                hidden += Items(data, Box(meta.kind, meta.start + 4, meta.end)).exif_kinds
    sizes = [size for track in tracks for size in track.sizes]
    stills: list[int] = []
    crop = exif = None
    for meta in metas[:1]:  # libavif refuses a second one
        items = Items(data, meta)
        hidden += items.exif_kinds
        exif = items.exif()
        for kind, coded in items.checked():
            sizes += _coded_sizes(coded) if kind == b"av01" else []
        if items.primary is not None:
            stills.append(items.first_byte() or 0)
            extents = _property(data, items, b"ispe", 3)
            sizes += [(extents[1], extents[2])] if extents else []
            crop = _crop(extents[1:], _property(data, items, b"clap", 8))
    pictures = [track for track in tracks if not track.auxiliary]
    first_bytes = {*stills, *(track.first_byte for track in pictures)}
    frames = max((track.samples for track in pictures), default=1)
    frames += len(first_bytes) - 1 if pictures else 0
    return Container(
        data=_without_exif(data, hidden),
        frames=min(max(frames, 1), MAX_FRAMES_COUNTED),
        size=max(sizes, key=lambda size: size[0] * size[1], default=None),
        crop=crop,
        unreached=len(first_bytes) > 1,
        exif=exif,
    )


def _without_exif(data: bytes, kinds: list[int]) -> bytes:
    """The file with EXIF items turned into items of a kind that nobody knows."""
    if not kinds:
        return data
    changed = bytearray(data)
    for at in kinds:
        changed[at : at + 4] = _UNKNOWN_KIND
    return bytes(changed)


def _property(data: bytes, items: Items, kind: bytes, count: int) -> list[int]:
    """The first numbers, of 32 bits, of a property of the primary item; empty where it has none."""
    found = items.with_property(lambda entry: entry.kind == kind)
    box = found.get(-1 if items.primary is None else items.primary)
    if box is None:
        return []
    fields = Fields(data, box)
    return [fields.number(4) for _ in range(count)]


def _crop(sides: list[int], aperture: list[int]) -> tuple[int, int] | None:
    """The visible width and height by a clean aperture, None for all.

    Chromium shows everything where the aperture makes no sense, or does not begin in the image's
    upper left corner: a crop there may be meant to hide something.
    """
    if not sides or not aperture or not all(aperture[1::2]):
        return None
    ratios = [
        Fraction(number - (number >> 31 << 32), denominator)
        for number, denominator in zip(aperture[::2], aperture[1::2], strict=True)
    ]
    visible, offsets = ratios[:2], ratios[2:]
    for side, length, offset in zip(sides, visible, offsets, strict=True):
        if length.denominator != 1 or not 0 < length <= side or 2 * offset + side != length:
            return None
    return int(visible[0]), int(visible[1])


# Sequences ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Track:
    """A sequence of AV1 images. sizes are those that are coded in its first sample."""

    samples: int
    first_byte: int
    auxiliary: bool
    sizes: list[tuple[int, int]]


def _read_track(data: bytes, track: Box) -> _Track | None:
    """A track of AV1 images, all of whose data is in the file; None for one of other things."""
    media = descend(data, [track], b"mdia")
    tables = descend(data, descend(data, media, b"minf"), b"stbl")
    boxes = {box.kind: box for table in tables for box in children(data, table)}
    described = boxes.get(b"stsd")
    if described is None or data[described.start + 12 : described.start + 16] != b"av01":
        return None
    lengths = _sample_lengths(data, boxes.get(b"stsz"))
    starts = _chunk_starts(data, boxes)
    if not len(lengths) or not len(starts):
        raise corrupt("a sequence has no frames")
    counts = _samples_per_chunk(data, boxes.get(b"stsc"), len(starts))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    firsts = np.minimum(np.concatenate([[0], np.cumsum(counts)]), len(lengths))
    if firsts[-1] < len(lengths):
        raise corrupt("frames of a sequence are in no place")
    chunk_ends = starts + (ends[firsts[1:]] - ends[firsts[:-1]])
    if int(chunk_ends.max()) > len(data):
        raise cut_off("frames of a sequence are missing")
    first = int(starts[0])
    handlers = [data[box.start + 8 : box.start + 12] for box in descend(data, media, b"hdlr")]
    return _Track(
        samples=min(len(lengths), MAX_FRAMES_COUNTED),
        first_byte=first,
        auxiliary=b"auxv" in handlers,
        sizes=_coded_sizes(data[first : first + int(lengths[0])]),
    )


def _sample_lengths(data: bytes, box: Box | None) -> NDArray[Any]:
    if box is None:
        raise corrupt("a sequence has no sizes")
    fields = Fields(data, box)
    fields.number(4)
    each, count = fields.number(4), fields.count(4, limit=_MAX_SAMPLES)
    if each:
        return np.full(count, each, np.int64)
    return _numbers(data, fields, count, 4)


def _chunk_starts(data: bytes, boxes: dict[bytes, Box]) -> NDArray[Any]:
    size = 8 if b"co64" in boxes else 4
    box = boxes.get(b"co64", boxes.get(b"stco"))
    if box is None:
        raise corrupt("a sequence has no places")
    fields = Fields(data, box)
    fields.number(4)
    starts = _numbers(data, fields, fields.count(4, limit=_MAX_SAMPLES), size)
    if len(starts) and int(starts.max()) > len(data):
        raise cut_off("frames of a sequence are missing")
    return starts


def _samples_per_chunk(data: bytes, box: Box | None, chunks: int) -> NDArray[Any]:
    if box is None:
        raise corrupt("a sequence has no chunks")
    fields = Fields(data, box)
    fields.number(4)
    table = _numbers(data, fields, 3 * fields.count(4, limit=_MAX_SAMPLES), 4).reshape(-1, 3)
    counts = np.zeros(chunks, np.int64)
    for first, count, _ in table[:_MAX_UNITS].tolist():
        counts[max(first - 1, 0) :] = min(count, _MAX_SAMPLES)
    return counts


def _numbers(data: bytes, fields: Fields, count: int, size: int) -> NDArray[Any]:
    """So many big-endian numbers, 2^40 at the most so that sums stay exact."""
    rest = fields.rest()
    if rest.start + size * count > rest.end:
        raise corrupt("a list in the header ends early")
    numbers = np.frombuffer(data, f">u{size}", count, rest.start).astype(np.uint64)
    return np.minimum(numbers, np.uint64(1 << 40)).astype(np.int64)


# AV1 ----------------------------------------------------------------------------------------------


class _Bits:
    """Reads the numbers of a sequence header, bit by bit."""

    def __init__(self, data: bytes) -> None:
        # A sequence header of 32 operating points has under 300 bytes.
        self._number, self._left = int.from_bytes(data[:400], "big"), 8 * min(len(data), 400)

    def number(self, bits: int) -> int:
        """The next number. Raises DecodeError behind the end."""
        self._left -= bits
        if self._left < 0:
            raise corrupt("a sequence header ends early")
        return self._number >> self._left & ((1 << bits) - 1)

    def skip_uvlc(self) -> None:
        """A number whose length is coded by zeros before it."""
        zeros = 0
        while not self.number(1):
            zeros += 1
        if zeros < 32:
            self.number(zeros)


def _coded_sizes(coded: bytes) -> list[tuple[int, int]]:
    """The sizes, (width, height) in pixels, that the sequence headers of a coded image state.

    Raises DecodeError where there is none, or no image behind them: as an incomplete download
    leaves it.
    """
    sizes, has_picture = [], False
    for kind, content in _units(coded):
        if kind == _SEQUENCE_HEADER:
            sizes.append(_coded_size(_Bits(content)))
        has_picture |= kind in {_FRAME_HEADER, _FRAME}
    if not sizes or not has_picture:
        raise corrupt("a part holds no picture")
    return sizes


def _units(coded: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each OBU; the content is not wanted beyond a sequence header's bytes."""
    position, count = 0, 0
    while position < len(coded):
        header = coded[position]
        position += 2 if header & 0x04 else 1
        size, shift = 0, 0
        if header & 0x02:
            while True:
                if position >= len(coded) or shift > 28:
                    raise corrupt("a part is not AV1 data")
                byte = coded[position]
                position, size, shift = position + 1, size | (byte & 0x7F) << shift, shift + 7
                if byte < 0x80:
                    break
        else:
            size = max(len(coded) - position, 0)
        count += 1
        if header & 0x80 or position + size > len(coded) or count > _MAX_UNITS:
            raise corrupt("a part is not AV1 data")
        yield header >> 3 & 15, coded[position : position + min(size, 400)]
        position += size


def _coded_size(bits: _Bits) -> tuple[int, int]:
    """The largest size of a frame, by a sequence header (sequence_header_obu, 5.5.1)."""
    bits.number(3)  # seq_profile
    bits.number(1)  # still_picture
    if bits.number(1):  # reduced_still_picture_header
        bits.number(5)
    else:
        delay_bits = 0
        if bits.number(1):  # timing_info_present_flag
            bits.number(64)
            if bits.number(1):  # equal_picture_interval
                bits.skip_uvlc()
            if bits.number(1):  # decoder_model_info_present_flag
                delay_bits = bits.number(5) + 1
                bits.number(32 + 5 + 5)
        has_display_delay = bits.number(1)
        for _ in range(bits.number(5) + 1):
            bits.number(12)  # operating_point_idc
            if bits.number(5) > 7:  # seq_level_idx
                bits.number(1)
            if delay_bits and bits.number(1):
                bits.number(2 * delay_bits + 1)
            if has_display_delay and bits.number(1):
                bits.number(4)
    width_bits, height_bits = bits.number(4) + 1, bits.number(4) + 1
    return bits.number(width_bits) + 1, bits.number(height_bits) + 1
