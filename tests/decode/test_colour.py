"""Colour profiles that change what an image shows are applied; others cost nothing."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from moderate.decode.colour import correction, png_profile
from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.resize import PixelSpec
from moderate.types import Limits
from tests.support.pictures import encode, jpeg_with_segment, png_chunk, png_with_chunk, scene

SIZE = (64, 48)
PICTURE = scene(SIZE)
INVERTED = 255 - np.asarray(PICTURE).astype(np.int32)
# XYZ of red, green and blue, adapted to D50.
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


@pytest.fixture(scope="module", autouse=True)
def _codecs() -> None:
    prepare()


def to_linear(values: NDArray[Any]) -> NDArray[Any]:
    scaled = values / 255.0
    return np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)


def curve(values: NDArray[Any]) -> bytes:
    """A curve of 256 points, of which each is the linear light that a value stands for, 0 to 1."""
    points = np.round(values * 65535).astype(">u2").tobytes()
    return b"curv\x00\x00\x00\x00" + struct.pack(">I", 256) + points


USUAL = curve(to_linear(np.arange(256)))
INVERSE = curve(to_linear(255 - np.arange(256)))


def profile(corners: tuple[tuple[float, ...], ...] = SRGB, tone: bytes = USUAL) -> bytes:
    """An ICC profile of three corners and one curve."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \x00\x00\x00\x00" + struct.pack(">3i", *(round(65536 * v) for v in values))

    white = (0.9642, 1.0, 0.8249)
    named = zip((b"rXYZ", b"gXYZ", b"bXYZ"), corners, strict=True)
    tags = {b"wtpt": xyz(white)} | {name: xyz(corner) for name, corner in named}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)
    start = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\x00" * (-len(data) % 4)
    header = struct.pack(">I4xI", start + len(body), 0x02400000) + b"mntrRGB XYZ " + bytes(12)
    header = (header + b"acsp").ljust(68, b"\x00") + xyz(white)[8:]
    return header.ljust(128, b"\x00") + table + body


INVERTING = profile(tone=INVERSE)


def shown(data: bytes) -> NDArray[np.int32]:
    result = decode(data, (PixelSpec(SIZE[1], SIZE[0]),), Limits())
    assert isinstance(result, Decoded), result
    return np.asarray(result.pixels[0]).astype(np.int32)


def apart(ours: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.abs(ours - wanted).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_a_profile_that_inverts_colours_is_obeyed(kind: str) -> None:
    data = encode(PICTURE, kind, icc_profile=INVERTING)
    assert apart(shown(data), INVERTED) < 8
    assert apart(shown(encode(PICTURE, kind)), INVERTED) > 60


def test_what_a_profile_draws_out_of_near_black_is_scored() -> None:
    shape = np.asarray(PICTURE.convert("L").point(lambda value: 255 * (value > 110)))
    dark = Image.fromarray(np.repeat((shape // 255 + 1)[..., None], 3, axis=2))  # 1 and 2 of 255
    points = to_linear(np.arange(256))
    points[1], points[2] = 0, 1
    data = encode(dark, "PNG", icc_profile=profile(tone=curve(points)))
    assert apart(shown(data), np.repeat(shape[..., None], 3, axis=2).astype(np.int32)) < 2


def test_colours_are_exchanged_where_the_profile_exchanges_them() -> None:
    data = encode(PICTURE, "PNG", icc_profile=profile((SRGB[2], SRGB[1], SRGB[0])))
    assert apart(shown(data), np.asarray(PICTURE)[..., ::-1].astype(np.int32)) < 2


def test_all_modes_are_corrected_before_they_are_composited() -> None:
    clear = PICTURE.copy()
    alpha = Image.linear_gradient("L").resize(SIZE)
    clear.putalpha(alpha)
    cover = np.asarray(alpha)[..., None] / 255
    wanted = INVERTED * cover + 255 * (1 - cover)
    assert apart(shown(encode(clear, "PNG", icc_profile=INVERTING)), wanted) < 4
    grey = PICTURE.convert("L")
    wanted = np.repeat(255 - np.asarray(grey)[..., None].astype(np.int32), 3, axis=2)
    for image in (grey, Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)):
        assert apart(shown(encode(image, "PNG", icc_profile=INVERTING)), wanted) < 4


def test_usual_profiles_cost_nothing_and_broken_ones_no_image() -> None:
    for usual in (profile(), profile(P3), profile(ADOBE)):
        assert correction(usual, grey=False) is None
        assert correction(usual, grey=True) is None
    for broken in (None, b"", b"x" * 200, INVERTING[:150], INVERTING[:128] + b"\xff" * 400):
        assert correction(broken, grey=False) is None
    cmyk = INVERTING[:16] + b"CMYK" + INVERTING[20:]
    assert correction(cmyk, grey=False) is None
    assert correction(INVERTING + bytes(5 << 20), grey=False) is None
    assert correction(INVERTING, grey=False) is not None


def test_a_profile_in_pieces_must_be_whole() -> None:
    plain = encode(PICTURE, "JPEG")
    half = len(INVERTING) // 2
    pieces = {1: INVERTING[:half], 2: INVERTING[half:]}

    def stored(*order: tuple[int, int]) -> NDArray[np.int32]:
        data = plain
        for number, count in reversed(order):
            head = b"ICC_PROFILE\x00" + bytes((number, count))
            data = jpeg_with_segment(data, 0xE2, head + pieces[number])
        return shown(data)

    for order in ([(1, 2), (2, 2)], [(2, 2), (1, 2)], [(1, 2), (2, 2), (2, 2)]):
        assert apart(stored(*order), INVERTED) < 4
    for order in ([(1, 2)], [(1, 3), (2, 3)]):
        assert apart(stored(*order), shown(plain)) == 0
    for stub in (b"", b"\x01", b"\x00\x00", b"\x01\x01"):
        assert (
            apart(shown(jpeg_with_segment(plain, 0xE2, b"ICC_PROFILE\x00" + stub)), shown(plain))
            == 0
        )


def test_a_profile_in_a_bmp_is_obeyed() -> None:
    rows = np.asarray(PICTURE)[::-1, :, ::-1].tobytes()
    info = struct.pack("<IiiHHI", 124, *SIZE, 1, 24, 0).ljust(56, b"\x00") + b"DEBM"
    info = info.ljust(112, b"\x00") + struct.pack("<III", 124 + len(rows), len(INVERTING), 0)
    data = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 138) + info + rows + INVERTING
    assert apart(shown(data), INVERTED) < 4


def test_gamma_of_a_png_is_obeyed_unless_better_is_known() -> None:
    plain = encode(PICTURE, "PNG")
    values = np.asarray(PICTURE) / 255.0
    linear = values ** (1 / 0.1)
    bright = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    gamma = png_chunk(b"gAMA", struct.pack(">I", 10_000))
    assert apart(shown(png_with_chunk(plain, gamma)), bright * 255) < 3
    standard = png_chunk(b"sRGB", b"\x00")
    assert apart(shown(png_with_chunk(plain, gamma + standard)), np.asarray(PICTURE)) == 0
    usual = png_chunk(b"gAMA", struct.pack(">I", 45_455))
    corners = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
    usual += png_chunk(b"cHRM", struct.pack(">8I", *corners))
    assert apart(shown(png_with_chunk(plain, usual)), np.asarray(PICTURE)) == 0
    exchanged = (*corners[:2], *corners[6:], *corners[4:6], *corners[2:4])
    swapped = png_chunk(b"gAMA", struct.pack(">I", 45_455))
    swapped += png_chunk(b"cHRM", struct.pack(">8I", *exchanged))
    assert apart(shown(png_with_chunk(plain, swapped)), np.asarray(PICTURE)[..., ::-1]) < 3
    inverted = png_chunk(b"iCCP", b"x\x00\x00" + zlib.compress(INVERTING))
    assert apart(shown(png_with_chunk(plain, inverted + gamma)), INVERTED) < 4


@pytest.mark.parametrize("chunk", [b"", b"x", b"x\x00", b"x" * 90, b"x\x00\x00" + b"\xff" * 30])
def test_a_broken_profile_in_a_png_is_ignored(chunk: bytes) -> None:
    plain = encode(PICTURE, "PNG")
    data = png_with_chunk(plain, png_chunk(b"iCCP", chunk))
    assert apart(shown(data), np.asarray(PICTURE)) == 0


def test_corners_without_sense_are_ignored() -> None:
    for corners in ((0,) * 8, (1,) * 8, (0xFFFFFFFF,) * 8, (31_270, 32_900) * 4):
        assert png_profile(45_455, corners) is None
    assert png_profile(0, None) is None
    assert png_profile(0xFFFFFFFF, None) is None
