"""Formats that are read only where the user asks for them: TIFF and ICO."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from moderate.decode.formats import check_formats, parse_formats
from moderate.decode.ico import IconFile
from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.parts import DecodeOptions
from moderate.decode.sniff import OPTIONAL, SUPPORTED, refusal
from moderate.errors import UsageError
from moderate.types import ErrorCode, Limits, Warn
from tests.support import decoding
from tests.support.decoding import SPEC
from tests.support.heics import cut_points
from tests.support.pictures import encode, exif_block, png, scene

IMAGE = scene((90, 70))
ASKED = DecodeOptions(formats=("ico", "tiff"))


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def outcome(data: bytes, limits: Limits = Limits()) -> Decoded | Undecoded:  # noqa: B008
    return decoding.outcome(data, limits, ASKED)


def code(data: bytes, limits: Limits = Limits()) -> ErrorCode:  # noqa: B008
    return decoding.code(data, limits, ASKED)


def assert_shows(data: bytes, image: Image.Image, most: float = 1.5) -> Decoded:
    scored = decoding.assert_shows(data, image, mean=most, options=ASKED)
    assert scored.facts.width == image.width
    return scored


# The option ---------------------------------------------------------------------------------------


def test_formats_are_added_by_name() -> None:
    assert parse_formats([]) == ()
    assert parse_formats(["+tiff"]) == ("tiff",)
    assert parse_formats(["+tiff,+ICO", "+tiff"]) == ("ico", "tiff")
    assert check_formats(("tiff", "ico", "tiff", "+tiff")) == ("ico", "tiff")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tiff", r"write \+tiff"),
        ("-avif", "only be added"),
        ("+png", "always read"),
        ("+psd", r"'psd' is not known; there is \+ico, \+tiff"),
        ("psd", r"there is \+ico, \+tiff"),
        ("+", r"there is \+ico, \+tiff"),
    ],
)
def test_anything_else_is_a_mistake_that_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_formats([text])


def test_without_the_option_the_message_names_it() -> None:
    head = encode(IMAGE, "TIFF")[:1024]
    assert refusal("tiff", head, b"a.tif") == (
        "unsupported_format",
        "tiff is not among the formats; add it with --formats +tiff",
    )
    assert refusal("tiff", head, b"a.tif", ("tiff",)) is None
    # Bytes that are no TIFF do not become one by the option.
    assert refusal(None, b"\x80" * 99, b"a.tif", ("tiff",)) is not None
    assert not OPTIONAL & SUPPORTED


@pytest.mark.parametrize("kind", ["TIFF", "ICO"])
def test_decoders_refuse_what_was_not_asked_for(kind: str) -> None:
    data = encode(IMAGE, kind)
    assert isinstance(decode(data, (SPEC,), Limits(), ASKED), Decoded)
    other = tuple(name for name in ASKED.formats if name != kind.lower())
    for formats in ((), other):
        refused = decode(data, (SPEC,), Limits(), DecodeOptions(formats=formats))
        assert isinstance(refused, Undecoded)
        assert refused.code is ErrorCode.NOT_AN_IMAGE


# TIFF ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compression",
    ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"],
)
def test_compressions(compression: str) -> None:
    assert_shows(encode(IMAGE, "TIFF", compression=compression), IMAGE)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression: str) -> None:
    black_and_white = IMAGE.convert("1")
    assert_shows(encode(black_and_white, "TIFF", compression=compression), black_and_white)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_kinds_of_pixels(mode: str) -> None:
    image = IMAGE.convert("L").convert("I;16") if mode == "I;16" else IMAGE.convert(mode)
    if mode == "I;16":  # a range that 8 bits would clip
        image = Image.fromarray(np.asarray(IMAGE.convert("L")).astype(np.uint16) * 257)
    assert_shows(encode(image, "TIFF"), image if mode != "CMYK" else image.convert("RGB"))


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_kinds_that_are_not_understood_are_refused(mode: str) -> None:
    image = Image.new("LAB", (9, 9)) if mode == "LAB" else IMAGE.convert("L").convert(mode)
    assert code(encode(image, "TIFF")) is ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("compression", ["zstd", "lzma", "webp"])
def test_rare_compressions_are_refused(compression: str) -> None:
    data = bytearray(encode(IMAGE, "TIFF", compression="tiff_lzw"))
    number = {"zstd": 50000, "lzma": 34925, "webp": 50001}[compression]
    at = data.index(struct.pack("<HHIHH", 259, 3, 1, 5, 0))
    struct.pack_into("<H", data, at + 8, number)
    assert code(bytes(data)) is ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_is_turned_once(orientation: int, compression: str) -> None:
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    stored = IMAGE.transpose(turn)
    data = encode(stored, "TIFF", exif=exif_block(orientation), compression=compression)
    assert_shows(data, IMAGE)


def pages(count: int = 3) -> bytes:
    further = [scene((60, 50), seed=seed) for seed in range(1, count)]
    return encode(IMAGE, "TIFF", save_all=True, append_images=further, compression="tiff_lzw")


def test_pages_are_counted_and_what_is_left_out_is_said() -> None:
    scored = assert_shows(pages(), IMAGE)
    assert scored.facts.frames == 3
    assert Warn.MULTI_PICTURE in scored.facts.warnings
    first = decode(pages(), (SPEC,), Limits(), DecodeOptions(frames="first", formats=("tiff",)))
    assert isinstance(first, Decoded)
    assert Warn.PARTLY_SCORED in first.facts.warnings


def test_pages_that_lead_in_a_circle_come_to_an_end() -> None:
    data = bytearray(pages())
    first = struct.unpack_from("<I", data, 4)[0]
    last = data.rindex(b"\x00\x00\x00\x00")
    struct.pack_into("<I", data, last, first)
    assert isinstance(outcome(bytes(data)), Decoded | Undecoded)


def test_every_page_counts_for_the_limit_of_pixels() -> None:
    large = encode(IMAGE, "TIFF", save_all=True, append_images=[Image.new("1", (900, 900))])
    assert isinstance(outcome(large), Decoded)
    assert code(large, Limits(max_pixels=500_000)) is ErrorCode.TOO_MANY_PIXELS


def test_a_broken_exif_directory_never_costs_the_image() -> None:
    tags = ImageFileDirectory_v2()
    tags[65000], tags.tagtype[65000] = 1, 4
    data = bytearray(encode(IMAGE, "TIFF", tiffinfo=tags))
    at = data.index(struct.pack("<HHII", 65000, 4, 1, 1))
    for pointer in (0xFFFFFFFF, len(data) - 1, 8):
        struct.pack_into("<HHII", data, at, 0x8769, 4, 1, pointer)
        assert_shows(bytes(data), IMAGE)


# ICO ----------------------------------------------------------------------------------------------

SIZES = [(64, 64), (32, 32), (16, 16)]
SQUARE = scene((64, 64))


def icon(bitmap: bool = False, **options: Any) -> bytes:
    kind = {"bitmap_format": "bmp"} if bitmap else {}
    return encode(SQUARE, "ICO", **{"sizes": SIZES, **kind, **options})


@pytest.mark.parametrize("bitmap", [False, True])
def test_the_largest_image_of_an_icon_is_scored_and_the_others_counted(bitmap: bool) -> None:
    scored = assert_shows(icon(bitmap), SQUARE)
    assert scored.facts.frames == 3
    assert Warn.MULTI_PICTURE in scored.facts.warnings
    first = decode(icon(), (SPEC,), Limits(), DecodeOptions(frames="first", formats=("ico",)))
    assert isinstance(first, Decoded)
    assert Warn.PARTLY_SCORED in first.facts.warnings


@pytest.mark.parametrize("bitmap", [False, True])
def test_all_images_of_an_icon_can_be_reached(bitmap: bool) -> None:
    with IconFile(io.BytesIO(icon(bitmap))) as image:
        seen = []
        for frame in range(image.n_frames):
            image.seek(frame)
            image.load()
            seen.append(image.size)
            assert image.tell() == frame
        with pytest.raises(EOFError):
            image.seek(3)
    assert seen == SIZES


def test_an_icon_whose_fourth_byte_is_empty_is_shown() -> None:
    """Chromium takes such an alpha for none. Pillow would show nothing at all."""
    clear = SQUARE.copy()
    clear.putalpha(0)
    data = bytearray(encode(clear, "ICO", sizes=SIZES[:1], bitmap_format="bmp"))
    scored = assert_shows(bytes(data), SQUARE)
    assert Warn.ALPHA_AMBIGUOUS not in scored.facts.warnings


def test_an_image_in_an_icon_is_refused_by_its_own_size() -> None:
    """The entry has one byte for a side, so that it cannot say what is in the image."""
    bomb = png(60_000, 60_000)
    entry = struct.pack("<4B2H2I", 16, 16, 0, 0, 1, 32, len(bomb), 22)
    assert code(b"\x00\x00\x01\x00\x01\x00" + entry + bomb) is ErrorCode.TOO_MANY_PIXELS
    head = struct.pack("<IiiHHI24x", 40, 30_000, 60_000, 1, 32, 0)
    entry = struct.pack("<4B2H2I", 16, 16, 0, 0, 1, 32, len(head), 22)
    assert code(b"\x00\x00\x01\x00\x01\x00" + entry + head) is ErrorCode.TRUNCATED


# Both ---------------------------------------------------------------------------------------------

FILES: dict[str, Callable[[], bytes]] = {
    "TIFF": lambda: encode(IMAGE, "TIFF"),
    "TIFF, LZW": lambda: encode(IMAGE, "TIFF", compression="tiff_lzw"),
    "TIFF, Deflate": lambda: encode(IMAGE, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG": lambda: encode(IMAGE, "TIFF", compression="jpeg"),
    "TIFF, fax": lambda: encode(IMAGE.convert("1"), "TIFF", compression="group4"),
    "TIFF, pages": pages,
    "BigTIFF": lambda: encode(IMAGE, "TIFF", big_tiff=True),
    "ICO": icon,
    "ICO, bitmaps": lambda: icon(bitmap=True),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_a_file_cut_anywhere_is_an_error(file: Callable[[], bytes]) -> None:
    data = file()
    assert isinstance(outcome(data), Decoded)
    # Behind its last page, a TIFF may end with zeros that fill it up to a round length.
    for length in cut_points(data.rstrip(b"\x00"), dense=300, stride=101):
        cut = outcome(data[:length])
        assert isinstance(cut, Undecoded), f"scored {length} of {len(data)} bytes"
        assert length < 8 or cut.code is not ErrorCode.INTERNAL_ERROR


def test_no_bytes_make_it_raise() -> None:
    rng = random.Random(11)
    seeds = [file() for file in FILES.values()]
    for _ in range(600):
        data = bytearray(rng.choice(seeds))
        start = rng.choice((0, len(data) - 200, rng.randrange(len(data))))
        for _ in range(rng.randint(1, 8)):
            at = min(max(start, 0) + rng.randrange(200), len(data) - 1)
            if rng.random() < 0.8:
                data[at] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
            else:
                del data[at : at + rng.randint(1, 20)]
            data = data or bytearray(b"\x00")
        result = outcome(bytes(data), Limits(max_pixels=1_000_000))
        assert isinstance(result, Decoded | Undecoded)
