"""BMPs of all kinds are decoded as browsers show them. Files are put together by hand."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.resize import PixelSpec
from moderate.types import ErrorCode, Limits, Warn
from tests.support.pictures import scene

SIZE = WIDTH, HEIGHT = 31, 22  # odd, so that rows are padded
PICTURE = scene(SIZE)
RGB = np.asarray(PICTURE).astype(np.uint32)
SHAPE = np.where(np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) % 19 < 9, 255, 0)
RED_GREEN_BLUE = (0xFF0000, 0xFF00, 0xFF)
BGRA = (*RED_GREEN_BLUE, 0xFF000000)


@pytest.fixture(scope="module", autouse=True)
def _codecs() -> None:
    prepare()


def bmp(
    rows: bytes,
    bits: int,
    *,
    header: int = 40,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
    colours: int = 0,
    height: int = HEIGHT,
    offset: int | None = None,
) -> bytes:
    """A BMP with a header of any length; masks are in it, or behind one that is too short."""
    stated = struct.pack(f"<{len(masks)}I", *masks)
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, height, 1, bits)
    else:
        info = struct.pack(
            *("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(rows)),
            *(0, 0, colours, 0),
        )
        info = (info + (stated if header >= 52 else b"")).ljust(header, b"\x00")[:header]
        info += stated if header < 52 else b""
    start = 14 + len(info) + len(palette) if offset is None else offset
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, start) + info + palette + rows


def packed(masks: tuple[int, ...], bits: int, alpha: NDArray[Any] = SHAPE) -> bytes:
    """The rows of the picture, from the bottom up, with channels where the masks say."""
    values = np.zeros((HEIGHT, WIDTH), np.uint64)
    for channel, mask in zip((*np.moveaxis(RGB, -1, 0), alpha), masks, strict=False):
        if mask:
            most = (1 << mask.bit_count()) - 1
            shift = np.uint64((mask & -mask).bit_length() - 1)
            values |= np.round(channel * most / 255.0).astype(np.uint64) << shift
    rows = [row.tobytes() for row in values.astype(f"<u{bits // 8}")[::-1]]
    return b"".join(row + b"\x00" * (-len(row) % 4) for row in rows)


def outcome(data: bytes) -> Decoded | Undecoded:
    return decode(data, (PixelSpec(HEIGHT, WIDTH),), Limits())


def shown(data: bytes) -> NDArray[np.int32]:
    result = outcome(data)
    assert isinstance(result, Decoded), result
    return np.asarray(result.pixels[0]).astype(np.int32)


def apart(data: bytes, wanted: NDArray[Any]) -> int:
    return int(np.abs(shown(data) - wanted.astype(np.int32)).max())


def on_white(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.float64]:
    cover = alpha[..., None] / 255.0
    return colours * cover + 255 * (1 - cover)


@pytest.mark.parametrize("compression", [0, 3])
@pytest.mark.parametrize("header", [108, 124])
def test_alpha_of_late_headers_is_drawn_whatever_the_compression(
    header: int, compression: int
) -> None:
    data = bmp(packed(BGRA, 32), 32, header=header, compression=compression, masks=BGRA)
    assert apart(data, on_white(RGB, SHAPE)) <= 1
    # A picture that is in the alpha alone would otherwise be scored as plain black.
    shape = packed((0, 0, 0, BGRA[3]), 32)
    data = bmp(shape, 32, header=header, compression=compression, masks=BGRA)
    assert apart(data, on_white(0 * RGB, SHAPE)) == 0
    result = outcome(data)
    assert isinstance(result, Decoded)
    assert Warn.ALPHA_AMBIGUOUS in result.facts.warnings


def test_without_a_mask_of_alpha_the_fourth_byte_is_nothing() -> None:
    rows = packed(BGRA, 32)
    assert apart(bmp(rows, 32), RGB) == 0
    assert apart(bmp(rows, 32, compression=3, masks=RED_GREEN_BLUE), RGB) == 0
    assert apart(bmp(rows, 32, header=124, masks=RED_GREEN_BLUE), RGB) == 0
    assert apart(bmp(rows, 32, header=56, masks=BGRA), RGB) == 0


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (32, (0xFF, 0xFF00, 0xFF0000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (32, (0xFFE00000, 0x1FFC00, 0x3FF)),
        (32, (0xFE000000, 0x1FFFF80, 0x7F)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0xF00, 0xF0, 0xF)),
        (16, (0x30, 0xE, 0x1)),
    ],
)
def test_channels_may_lie_anywhere(bits: int, masks: tuple[int, int, int]) -> None:
    levels = [(1 << min(mask.bit_count(), 8)) - 1 for mask in masks]
    wanted = np.round(np.round(RGB * levels / 255.0) * 255 / levels)
    data = bmp(packed(masks, bits), bits, compression=3, masks=masks)
    assert apart(data, wanted) <= 1


def test_alpha_of_sixteen_bits_counts_only_with_masks() -> None:
    masks = (0x7C00, 0x3E0, 0x1F, 0x8000)
    rows = packed(masks, 16)
    five = np.round(np.round(RGB * 31 / 255.0) * 255 / 31)
    assert apart(bmp(rows, 16, header=124, masks=masks), five) <= 1
    data = bmp(rows, 16, header=124, compression=3, masks=masks)
    assert apart(data, on_white(five, SHAPE)) <= 1


def test_masks_may_share_bits_but_have_no_gaps() -> None:
    rows = packed(RED_GREEN_BLUE, 32)
    shared = (0xFF00, 0xFF00, 0xFF)
    assert apart(bmp(rows, 32, compression=3, masks=shared), RGB[..., [1, 1, 2]]) == 0
    refused = outcome(bmp(rows, 32, compression=3, masks=(0xF0F0000, 0xFF00, 0xFF)))
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.CORRUPT_IMAGE


COLOURS = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)
INDICES = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


def paletted(bits: int) -> tuple[bytes, bytes, NDArray[Any]]:
    """Rows of indices of so many bits, their palette, and the colours that they show."""
    indices = INDICES & ((1 << bits) - 1)
    rows = b""
    for row in indices[::-1]:
        line = np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()
        rows += line + b"\x00" * (-len(line) % 4)
    palette = np.zeros((1 << bits, 4), np.uint8)
    palette[:, :3] = COLOURS[: 1 << bits, ::-1]
    return rows, palette.tobytes(), COLOURS[indices]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_all_headers(bits: int) -> None:
    rows, palette, wanted = paletted(bits)
    three = b"".join(palette[at : at + 3] for at in range(0, len(palette), 4))
    assert apart(bmp(rows, bits, palette=palette), wanted) == 0
    assert apart(bmp(rows, bits, header=12, palette=three), wanted) == 0
    for header in (16, 64, 42, 108, 124):
        assert apart(bmp(rows, bits, header=header, palette=palette), wanted) == 0
    many = palette.ljust(1200, b"\x55")
    assert apart(bmp(rows, bits, palette=many, colours=300), wanted) == 0
    dib = bmp(rows, bits, palette=palette)[14:]
    assert apart(dib, wanted) == 0


def test_colours_that_the_palette_lacks_are_black() -> None:
    rows, palette, wanted = paletted(8)
    data = bmp(rows, 8, palette=palette[: 4 * 100], colours=100)
    assert apart(data, np.where(INDICES[..., None] < 100, wanted, 0)) == 0


def test_pixels_begin_where_the_file_says() -> None:
    rows, palette, wanted = paletted(8)
    whole = bmp(b"between" + rows, 8, palette=palette, offset=54 + len(palette) + 7)
    assert apart(whole, wanted) == 0
    early = bmp(rows, 8, palette=palette, offset=54)
    stored = np.frombuffer(early, np.uint8, HEIGHT * 32, 54).reshape(HEIGHT, 32)
    assert apart(early, COLOURS[stored[::-1, :WIDTH]]) == 0


# Run-length coding --------------------------------------------------------------------------------


def runs(bits: int) -> bytes:
    """Two rows: runs, then pixels as they are; the rest is skipped."""
    if bits == 8:
        return b"\x14\x07\x0b\x09\x00\x00" + b"\x00\x05\x01\x02\x03\x04\x05\x00" + b"\x00\x01"
    return b"\x14\x78\x0b\x99\x00\x00" + b"\x00\x05\x12\x34\x50\x00" + b"\x00\x01"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("height", [HEIGHT, -HEIGHT])
def test_what_run_lengths_skip_is_black(bits: int, height: int) -> None:
    _, palette, _ = paletted(bits)
    data = bmp(runs(bits), bits, compression=3 - bits // 4, palette=palette, height=height)
    rows = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    first = [7] * 20 if bits == 8 else [7, 8] * 10
    rows[0] = COLOURS[first + [9] * 11]
    rows[1, :5] = COLOURS[1:6]
    assert apart(data, rows if height < 0 else rows[::-1]) == 0
    result = outcome(data)
    assert isinstance(result, Decoded)
    # Others show it as transparent.
    assert Warn.ALPHA_AMBIGUOUS in result.facts.warnings


def test_run_lengths_may_jump_and_hold_colours() -> None:
    _, palette, _ = paletted(8)
    jump = b"\x00\x02\x03\x02\x04\x07\x00\x01"  # 3 to the right and 2 up, then 4 pixels
    rows = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rows[2, 3:7] = COLOURS[7]
    assert apart(bmp(jump, 8, compression=1, palette=palette), rows[::-1]) == 0

    line = b"\x1f\x0a\x14\x1e\x00\x00"
    data = bmp(line * HEIGHT + b"\x00\x01", 24, header=64, compression=4)
    assert apart(data, np.full((HEIGHT, WIDTH, 3), (0x1E, 0x14, 0x0A))) == 0


@pytest.mark.parametrize(
    "coded",
    [
        b"\xff\x07" * 50,  # runs longer than a row, and no end
        b"\x00\x02\xff\xff" * 3 + b"\x05",
        b"\x00\xff" + b"\x01" * 20,
        b"\x1f\x07\x00\x00" * 5,
        b"",
    ],
)
def test_run_lengths_without_an_end_lack_rows(coded: bytes) -> None:
    _, palette, _ = paletted(8)
    refused = outcome(bmp(coded, 8, compression=1, palette=palette))
    if coded.startswith(b"\x00\x02"):  # the jump leads behind the last row: nothing is missing
        assert isinstance(refused, Decoded)
        return
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.TRUNCATED


@pytest.mark.parametrize(
    ("bits", "compression", "header"), [(0, 4, 40), (0, 5, 40), (1, 3, 64), (7, 0, 40), (24, 3, 40)]
)
def test_kinds_that_browsers_refuse_are_refused(bits: int, compression: int, header: int) -> None:
    refused = outcome(bmp(b"\x00" * 5000, bits, compression=compression, header=header))
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.UNSUPPORTED_FORMAT


def test_numbers_as_large_as_fields_hold_are_refused_unread() -> None:
    rows, palette, _ = paletted(8)
    whole = bmp(rows, 8, palette=palette)
    for at in range(10, 54, 2):
        for value in (b"\xff" * 4, b"\xff\xff\xff\x7f", bytes(4), b"\x00\x00\x00\x80"):
            changed = whole[:at] + value + whole[at + 4 :]
            result = outcome(changed)
            if isinstance(result, Decoded):
                assert (result.facts.width or 0) * (result.facts.height or 0) < 1_000_000
