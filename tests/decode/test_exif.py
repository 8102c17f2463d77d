"""The orientation is read from EXIF blocks as browsers read it, whatever else in them is broken."""

from __future__ import annotations

import struct

import pytest

from moderate.decode.exif import exif_orientation
from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.resize import PixelSpec
from moderate.types import ImageFacts, Limits, Warn
from tests.support.pictures import encode, jpeg_with_segment, png_chunk, png_with_chunk, scene

TURNED = (0x0112, 3, 1, 6)
NOWHERE = 1 << 30


def block(*entries: tuple[int, int, int, int], order: str = "<", count: int | None = None) -> bytes:
    """A TIFF block of entries (tag, type, count, value)."""
    number = len(entries) if count is None else count
    data = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}IH", 8, number)
    for tag, kind, length, value in entries:
        if kind == 3:
            data += struct.pack(f"{order}HHIHH", tag, kind, length, value, 0)
        else:
            data += struct.pack(f"{order}HHII", tag, kind, length, value)
    return data


def facts(data: bytes) -> ImageFacts:
    prepare()
    result = decode(data, (PixelSpec(32, 32),), Limits())
    assert isinstance(result, Decoded), result
    return result.facts


@pytest.mark.parametrize("order", ["<", ">"])
def test_nothing_that_is_broken_elsewhere_hides_the_orientation(order: str) -> None:
    for other in (
        (0x8769, 4, 1, NOWHERE),  # the EXIF directory
        (0x8769, 4, 1, 8),  # this directory itself
        (0x8825, 4, 1, NOWHERE),  # GPS
        (0x010F, 2, 99, NOWHERE),
        (0x011A, 5, 1, NOWHERE),
        (0x0100, 99, 0xFFFFFFFF, 0xFFFFFFFF),
    ):
        assert exif_orientation(block(other, TURNED, order=order)) == (6, True)
        assert exif_orientation(block(TURNED, other, order=order) + b"\xff" * 4) == (6, True)
    assert exif_orientation(block(TURNED, order=order, count=65535)) == (6, True)
    assert exif_orientation(b"Exif\x00\x00" + block(TURNED, order=order)) == (6, True)


def test_the_first_valid_tag_counts() -> None:
    assert exif_orientation(block(TURNED, (0x0112, 3, 1, 3))) == (6, True)
    assert exif_orientation(block((0x0112, 3, 1, 9), TURNED)) == (6, True)
    assert exif_orientation(block((0x0112, 4, 1, 3), TURNED)) == (6, True)
    assert exif_orientation(block((0x0112, 3, 1, 9))) == (1, True)
    assert exif_orientation(block((0x010F, 2, 4, 0))) == (1, True)
    assert exif_orientation(block()) == (1, True)


@pytest.mark.parametrize(
    "unreadable",
    [
        b"",
        b"II*\x00",
        b"XX*\x00" + block(TURNED)[4:],
        b"II+\x00" + block(TURNED)[4:],
        b"II*\x00\xff\xff\xff\xff" + bytes(40),
        b"II*\x00\x00\x00\x00\x00" + bytes(40),
        block(TURNED)[:-3],
        block((0x010F, 2, 4, 0), count=2),
        block((0x0112, 4, 1, 6)),
        block((0x0112, 3, 2, 6)),
        b"Exif\x00\x00Exif\x00\x00" + block(TURNED),
    ],
)
def test_where_viewers_may_disagree_the_orientation_is_unknown(unreadable: bytes) -> None:
    assert exif_orientation(unreadable) == (1, False)


def test_images_are_turned_by_it_and_its_loss_is_said() -> None:
    broken = block((0x8769, 4, 1, NOWHERE), TURNED)
    unknown = block((0x0112, 4, 1, 6))
    jpeg, png = encode(scene((80, 60)), "JPEG"), encode(scene((80, 60)), "PNG")
    for good, bad in (
        [jpeg_with_segment(jpeg, 0xE1, b"Exif\x00\x00" + each) for each in (broken, unknown)],
        [png_with_chunk(png, png_chunk(b"eXIf", each)) for each in (broken, unknown)],
    ):
        assert (facts(good).width, facts(good).height) == (60, 80)
        assert Warn.BAD_METADATA not in facts(good).warnings
        assert (facts(bad).width, facts(bad).height) == (80, 60)
        assert Warn.BAD_METADATA in facts(bad).warnings


def test_of_several_blocks_in_a_jpeg_the_first_counts_however_short() -> None:
    plain = encode(scene((80, 60)), "JPEG")
    second = jpeg_with_segment(plain, 0xE1, b"Exif\x00\x00" + block(TURNED))
    for first in (b"X", b"II*\x00", b"II*\x00\x08\x00\x00\x00"):
        both = jpeg_with_segment(second, 0xE1, b"Exif\x00\x00" + first)
        assert facts(both).width == 80
        assert Warn.BAD_METADATA in facts(both).warnings
    assert facts(jpeg_with_segment(second, 0xE1, b"Exif\x00\x00")).width == 60
