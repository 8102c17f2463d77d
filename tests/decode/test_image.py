"""Bytes to pixels: every mode, container, orientation, and everything that must be refused."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moderate.decode import pixels as colours
from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.parts import DecodeOptions
from moderate.decode.pixels import to_rgb
from moderate.decode.resize import PixelSpec, resize
from moderate.types import ErrorCode, Limits, Warn
from tests.support.pictures import (
    FORMATS,
    encode,
    exif_block,
    jpeg_with_segment,
    palette_scene,
    png,
    png_chunk,
    png_with_chunk,
    scene,
)

SPEC = PixelSpec(96, 96)
LIMITS = Limits()


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def pixels(data: bytes, spec: PixelSpec = SPEC) -> np.ndarray:
    outcome = decode(data, (spec,), LIMITS)
    assert isinstance(outcome, Decoded), outcome
    return outcome.pixels[0].astype(np.int16)


def decoded(data: bytes, limits: Limits = LIMITS) -> Decoded:
    outcome = decode(data, (SPEC,), limits)
    assert isinstance(outcome, Decoded), outcome
    return outcome


def refused(data: bytes, limits: Limits = LIMITS) -> Undecoded:
    outcome = decode(data, (SPEC,), limits)
    assert isinstance(outcome, Undecoded), "scored what must be refused"
    return outcome


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in 8-bit steps."""
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_picture(kind: str) -> None:
    picture = palette_scene()
    data = encode(picture, kind)
    outcome = decoded(data)
    assert (outcome.facts.width, outcome.facts.height) == picture.size
    assert outcome.facts.format == {"HEIF": "heif"}.get(kind, kind.lower())
    assert outcome.facts.frames == 1
    limit = 1.5 if kind in {"JPEG", "HEIF", "AVIF"} else 0
    assert difference(pixels(data), pixels(encode(picture, "PNG"))) <= limit


# AVIF's writer turns an EXIF orientation into the container's own irot and imir.
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    picture = palette_scene()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(undo[orientation]) if orientation > 1 else picture
    data = encode(stored, kind, exif=exif_block(orientation))
    assert difference(pixels(data), pixels(encode(picture, "PNG"))) <= (
        1.5 if kind in {"JPEG", "AVIF"} else 0
    )
    facts = decoded(data).facts
    assert (facts.width, facts.height) == picture.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "spec", [SPEC, PixelSpec(60, 100, "crop", 0.9), PixelSpec(60, 60, "crop", 0.875)]
)
def test_large_jpegs_are_upright_too(orientation: int, spec: PixelSpec) -> None:
    picture = scene((1800, 1300))
    stored = picture
    if orientation > 1:  # what reading turns back
        undone = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
        stored = colours.upright(picture, undone)
    data = encode(stored, "JPEG", exif=exif_block(orientation))
    outcome = decode(data, (spec,), LIMITS)
    assert isinstance(outcome, Decoded)
    assert (outcome.facts.width, outcome.facts.height) == (1800, 1300)
    # Upright first: what a model sees, turned afterwards, would be a pixel of its input away.
    expected = resize(picture, spec).astype(int)
    apart = np.abs(outcome.pixels[0].astype(int) - expected)
    assert apart.max() < 12
    assert apart.mean() < 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_not_turned_twice(orientation: int) -> None:
    picture = palette_scene()
    # The writer turns an EXIF orientation into HEIC's own irot and imir boxes.
    data = encode(picture, "HEIF", exif=exif_block(orientation))
    with Image.open(io.BytesIO(encode(picture, "JPEG", exif=exif_block(orientation)))) as jpeg:
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(jpeg)
    assert difference(pixels(data), pixels(encode(upright, "PNG"))) < 3
    assert (decoded(data).facts.width, decoded(data).facts.height) == upright.size


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 300 * 300).reshape(300, 300).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    shown = pixels(buffer.getvalue())
    assert shown[2].max() < 12
    assert shown[-2].min() > 243
    assert 120 < shown[48].mean() < 136


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_modes_are_shown_as_they_look(mode: str) -> None:
    picture = palette_scene().convert("L").convert("RGB")
    if mode == "1":
        picture = picture.convert("1", dither=Image.Dither.NONE).convert("RGB")
    data = encode(picture.convert(mode), "PNG")
    assert difference(pixels(data), pixels(encode(picture, "PNG"))) < 2


@pytest.mark.parametrize("marker", [True, False])
def test_cmyk_jpeg_with_and_without_adobe_marker(marker: bool) -> None:
    picture = palette_scene()
    data = encode(picture.convert("CMYK"), "JPEG")
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    if not marker:
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        data = data[:at] + data[at + 2 + length :]
    assert difference(pixels(data), pixels(encode(picture, "PNG"))) < 3


def test_rgb_jpeg_is_not_taken_for_ycbcr() -> None:
    picture = palette_scene()
    data = encode(picture, "JPEG", keep_rgb=True)
    assert b"Adobe" in data
    assert difference(pixels(data), pixels(encode(picture, "PNG"))) < 2


def test_ten_bit_heic() -> None:
    import pillow_heif

    picture = palette_scene()
    wide = np.asarray(picture).astype(np.uint16) * 257
    file = pillow_heif.from_bytes(mode="RGB;16", size=picture.size, data=wide.tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=95)
    assert difference(pixels(buffer.getvalue()), pixels(encode(picture, "PNG"))) < 3


# Transparency ------------------------------------------------------------------------------------


def test_alpha_is_composited_on_white_and_said_where_ambiguous() -> None:
    picture = scene().convert("RGBA")
    alpha = np.zeros((240, 320), np.uint8)
    alpha[:, :160] = 255
    picture.putalpha(Image.fromarray(alpha))
    outcome = decoded(encode(picture, "PNG"))
    assert outcome.pixels[0][:, 60:].min() == 255
    assert Warn.ALPHA_AMBIGUOUS in outcome.facts.warnings


def test_a_picture_hidden_under_zero_alpha_is_ambiguous() -> None:
    picture = scene().convert("RGBA")
    picture.putalpha(0)
    outcome = decoded(encode(picture, "PNG"))
    assert outcome.pixels[0].min() == 255
    assert Warn.ALPHA_AMBIGUOUS in outcome.facts.warnings


def test_opaque_or_hardly_transparent_alpha_is_not_ambiguous() -> None:
    picture = scene().convert("RGBA")
    assert Warn.ALPHA_AMBIGUOUS not in decoded(encode(picture, "PNG")).facts.warnings
    for x, y in ((0, 0), (319, 0), (0, 239), (319, 239)):
        picture.putpixel((x, y), (0, 0, 0, 0))
    assert Warn.ALPHA_AMBIGUOUS not in decoded(encode(picture, "PNG")).facts.warnings


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_big_pictures_are_converted_in_bands_to_the_same_pixels(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = scene((90, 70))
    if "A" in mode:
        picture.putalpha(Image.linear_gradient("L").resize((90, 70)))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    whole, ambiguous = to_rgb(picture)
    monkeypatch.setattr(colours, "_LARGE_IMAGE", 100)
    monkeypatch.setattr(colours, "_BAND_PIXELS", 1000)
    assert to_rgb(picture)[1] is ambiguous
    assert np.array_equal(np.asarray(to_rgb(picture)[0]), np.asarray(whole))


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_transparency_in_other_containers(kind: str) -> None:
    picture = palette_scene().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 160, 240))
    outcome = decoded(encode(picture, kind))
    assert outcome.pixels[0][:, :40].min() == 255
    assert outcome.pixels[0][:, 60:].min() < 250
    assert Warn.ALPHA_AMBIGUOUS in outcome.facts.warnings


@pytest.mark.parametrize(("depth", "value"), [(1, 0), (2, 1), (4, 5), (8, 85), (16, 21845)])
def test_the_transparent_grey_of_a_png_at_every_depth(depth: int, value: int) -> None:
    row = {1: b"\x00" * 8, 2: b"\x55" * 16, 4: b"\x55" * 32, 8: b"\x55" * 64, 16: b"\x55" * 128}
    data = zlib.compress((b"\x00" + row[depth]) * 64)
    key = png_chunk(b"tRNS", struct.pack(">H", value))
    outcome = decoded(png(64, 64, key, png_chunk(b"IDAT", data), depth=depth, colour=0))
    assert outcome.pixels[0].min() == 255, "the whole picture is the transparent grey"
    assert Warn.ALPHA_AMBIGUOUS in outcome.facts.warnings


def test_the_transparent_colour_of_an_rgb_png() -> None:
    row = b"\x00" + bytes((10, 20, 30)) * 32 + bytes((200, 20, 30)) * 32
    key = png_chunk(b"tRNS", struct.pack(">HHH", 10, 20, 30))
    outcome = decoded(png(64, 64, key, png_chunk(b"IDAT", zlib.compress(row * 64))))
    assert outcome.pixels[0][:, :40].min() == 255
    assert outcome.pixels[0][:, 60:, 1].max() < 40


# Frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [palette_scene(seed=seed) for seed in range(3)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    outcome = decoded(data)
    assert outcome.facts.frames == 3
    assert Warn.ANIMATED in outcome.facts.warnings
    assert difference(pixels(data), pixels(encode(frames[0], "PNG"))) < 1


def test_mpo_is_a_jpeg_with_further_pictures() -> None:
    buffer = io.BytesIO()
    scene().save(buffer, "MPO", save_all=True, append_images=[scene(seed=1)], quality=95)
    outcome = decoded(buffer.getvalue())
    assert outcome.facts.format == "jpeg"
    assert Warn.MULTI_PICTURE in outcome.facts.warnings
    assert difference(pixels(buffer.getvalue()), pixels(encode(scene(), "PNG"))) < 2


def many_frame_gif(frames: int) -> bytes:
    first = encode(palette_scene((64, 64)), "GIF")
    tiny = b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"
    return first[:-1] + tiny * frames + b"\x3b"


def test_a_gif_of_200000_frames_costs_its_first() -> None:
    plain, long = encode(palette_scene((64, 64)), "GIF"), many_frame_gif(200_000)

    def cost(data: bytes) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            decode(data, (SPEC,), LIMITS, DecodeOptions(frames="first"))
            times.append(time.process_time() - start)
        return sorted(times)[2]

    assert decoded(long).facts.frames == 1000
    # Counting all of them takes a second; the bound leaves room for a busy machine. What further
    # frames may cost is bounded by how many are compared: see test_animation.
    assert cost(long) - cost(plain) < 0.3


def test_a_gif_whose_later_frames_are_broken_is_scored() -> None:
    data = many_frame_gif(2)[:-16] + b"\x99" * 16
    assert difference(pixels(data), pixels(encode(palette_scene((64, 64)), "PNG"))) < 1


def test_small_images_are_scored_with_a_warning() -> None:
    assert Warn.SMALL_IMAGE in decoded(encode(scene((255, 40)), "PNG")).facts.warnings
    assert Warn.SMALL_IMAGE not in decoded(encode(scene((256, 40)), "PNG")).facts.warnings
    assert decoded(encode(scene((1, 1)), "PNG")).facts.width == 1


# Metadata never costs the picture ----------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\x00\x00",
        b"Exif\x00\x00garbage that is no TIFF header",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01" * 40,
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
    ],
)
def test_broken_exif_never_costs_the_picture(block: bytes) -> None:
    plain = encode(scene(), "JPEG")
    data = jpeg_with_segment(plain, 0xE1, block)
    assert difference(pixels(data), pixels(plain)) == 0


@pytest.mark.parametrize(
    ("marker", "payload"),
    [
        (0xE2, b"ICC_PROFILE\x00\x01\x01" + b"garbage" * 50),
        (0xE2, b"ICC_PROFILE\x00\x09\x02" + b"\xff" * 99),
        (0xE2, b"MPF\x00II*\x00\xff\xff\xff\xff"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta><broken"),
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\x00\x00\xff\xff\xff\xff"),
        (0xFE, b"\x00\xff" * 2000),
    ],
)
def test_broken_jpeg_metadata_never_costs_the_picture(marker: int, payload: bytes) -> None:
    plain = encode(scene(), "JPEG")
    assert difference(pixels(jpeg_with_segment(plain, marker, payload)), pixels(plain)) == 0


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"x\x00\x00not a deflate stream"),
        png_chunk(b"tEXt", b"Comment\x00" + b"a" * 2_000_000),
        png_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"a" * 50_000_000)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00broken"),
        png_chunk(b"eXIf", b"no TIFF header"),
        png_chunk(b"pHYs", b"\x00"),
        png_chunk(b"gAMA", b""),
        png_chunk(b"tIME", b"\xff"),
    ],
    ids=lambda chunk: chunk[4:8].decode(),
)
def test_broken_png_metadata_never_costs_the_picture(chunk: bytes) -> None:
    plain = encode(scene(), "PNG")
    assert difference(pixels(png_with_chunk(plain, chunk)), pixels(plain)) == 0


def test_unreadable_exif_is_said() -> None:
    data = jpeg_with_segment(encode(scene(), "JPEG"), 0xE1, b"Exif\x00\x00XX*\x00" + b"\xff" * 30)
    assert Warn.BAD_METADATA in decoded(data).facts.warnings


def test_pillow_does_not_flood_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    entry = struct.pack(">HHII", 0x9999, 7, 0xFFFFFF, 0xFFFFFF)
    block = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08" + struct.pack(">H", 5000) + entry * 5000
    decoded(jpeg_with_segment(encode(scene(), "JPEG"), 0xE1, block))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") <= 1


# What must be refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95, 0.99])
def test_truncation_is_an_error_never_half_a_picture(kind: str, share: float) -> None:
    data = encode(scene((640, 480)), kind)
    refused(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", FORMATS)
def test_the_last_bytes_cut_off_give_an_error_or_the_whole_picture(kind: str) -> None:
    picture = palette_scene()
    data, whole = encode(picture, kind), pixels(encode(picture, kind))
    for missing in range(1, 40):
        outcome = decode(data[:-missing], (SPEC,), LIMITS)
        if isinstance(outcome, Decoded):
            assert missing == 1, f"{missing} bytes are missing"
            assert kind == "GIF"
            assert difference(outcome.pixels[0].astype(np.int16), whole) == 0


def test_a_zeroed_tail_of_a_jpeg_is_no_picture() -> None:
    data = encode(scene((640, 480)), "JPEG")
    half = len(data) // 2
    assert refused(data[:half] + b"\x00" * (len(data) - half)).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("end", [b"\xff\xd9", b"\xff\xd9 and more behind it \xff\xd9"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_half_a_jpeg_with_an_end_marker_is_no_picture(
    end: bytes, mode: str, options: dict[str, object]
) -> None:
    data = encode(scene((640, 480)).convert(mode), "JPEG", quality=80, **options)
    decoded(data)
    decoded(data + b"trailing bytes")
    for share in (0.5, 0.8, 0.95):
        assert refused(data[: int(len(data) * share)] + end).code is ErrorCode.TRUNCATED


def progressive(size: tuple[int, int] = (320, 240), mode: str = "RGB") -> bytes:
    return encode(scene(size).convert(mode), "JPEG", progressive=True, quality=90)


def scans(data: bytes) -> list[int]:
    """Where the scans of a JPEG begin."""
    return [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_cut_between_scans_is_no_picture(mode: str) -> None:
    data = progressive(mode=mode)
    decoded(data)
    # The first scans bring frequencies, the last ones only finer steps of the same.
    for cut in scans(data)[1 : 1 + {"RGB": 4, "L": 2, "CMYK": 5}[mode]]:
        assert refused(data[:cut] + b"\xff\xd9").code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("count", [2_000, 100_000])
def test_progressive_scan_bombs_are_found_before_decoding(count: int) -> None:
    data = progressive((4000, 3000))
    last = scans(data)[-1]
    empty = data[last : last + 10]
    bomb = data[:last] + empty * count + data[last:]
    begun = time.process_time()
    assert refused(bomb).code is ErrorCode.TOO_MANY_SCANS
    assert time.process_time() - begun < 1


def test_a_hundred_scans_are_a_picture() -> None:
    data = progressive()
    last = scans(data)[-1]
    decoded(data[:last] + data[last:-2] * 100 + b"\xff\xd9")


FILL = 9 * 1024 * 1024


@pytest.mark.parametrize(
    "bomb",
    [
        lambda jpeg: jpeg[:2] + b"\xff" * FILL + jpeg[2:],
        lambda jpeg: jpeg[:2] + b"\xff\xfe\x00\x02" * (FILL // 4) + jpeg[2:],
        lambda jpeg: jpeg[:2] + b"\x00" * FILL + jpeg[2:],
        lambda jpeg: jpeg[:2] + b"\xff\xd0" * (FILL // 2) + jpeg[2:],
        lambda jpeg: jpeg[:-2] + b"\xff\xd0" * (FILL // 2) + jpeg[-2:],
        lambda jpeg: jpeg[:-2] + b"\xff\x00" * (FILL // 2) + jpeg[-2:],
        lambda jpeg: jpeg[:2] + (b"\xff\xdb\x00\x43" + bytes(65)) * (FILL // 69) + jpeg[2:],
    ],
    ids=["fill", "comments", "zeros", "restarts", "restarts in the scan", "stuffing", "tables"],
)
def test_jpeg_header_bombs_cost_little(bomb: Any) -> None:
    data = bomb(encode(scene((600, 400)), "JPEG"))
    begun = time.process_time()
    decode(data, (SPEC,), LIMITS)
    assert time.process_time() - begun < 8


@pytest.mark.parametrize(
    "chunk", [png_chunk(b"tEXt", b""), png_chunk(b"tEXt", b"a\0" + bytes(2000))]
)
def test_png_header_bombs_cost_little(chunk: bytes) -> None:
    data = png_with_chunk(encode(scene(), "PNG"), chunk * (FILL // len(chunk)))
    begun = time.process_time()
    decoded(data)
    assert time.process_time() - begun < 8


@pytest.mark.parametrize("quality", [1, 50, 95])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 9), (333, 77)])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}, {"subsampling": 2}]
)
def test_whole_jpegs_are_never_refused(
    quality: int, size: tuple[int, int], options: dict[str, object]
) -> None:
    noise = np.random.default_rng(quality).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.new("RGB", size, (128, 128, 128))):
        decoded(encode(picture, "JPEG", quality=quality, **options))


def adobe(transform: int) -> bytes:
    return b"Adobe\x00\x64\x00\x00\x00\x00" + bytes((transform,))


def test_of_several_adobe_segments_the_last_counts_and_stubs_do_not() -> None:
    plain = encode(scene(), "JPEG")
    first = jpeg_with_segment(plain[:2] + plain[20:], 0xEE, adobe(1))  # without JFIF
    both = jpeg_with_segment(first, 0xEE, adobe(0))
    assert difference(pixels(both), pixels(plain)) < 1
    for stub in (b"Adobe\x00", b"Adobe"):
        assert difference(pixels(jpeg_with_segment(plain, 0xEE, stub)), pixels(plain)) == 0
    assert difference(pixels(jpeg_with_segment(plain, 0xE0, b"JFIF\x00")), pixels(plain)) == 0


def test_a_png_may_say_its_orientation_behind_the_picture() -> None:
    turned = encode(palette_scene(), "PNG", exif=exif_block(6))
    at = turned.index(b"eXIf") - 4
    length = struct.unpack(">I", turned[at : at + 4])[0] + 12
    chunk, rest = turned[at : at + length], turned[:at] + turned[at + length :]
    moved = rest[:-12] + chunk + rest[-12:]
    assert decoded(moved).facts.width == 240
    assert difference(pixels(moved), pixels(turned)) == 0


def interlaced(passes: int) -> bytes:
    """An Adam7 PNG of 64 x 64 grey whose data ends after so many passes."""
    sizes = [(8, 8), (8, 8), (16, 8), (16, 16), (32, 16), (32, 32), (64, 32)]
    rows = b"".join((b"\x00" + b"\xc8" * w) * h for w, h in sizes[:passes])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 1))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b"")


def test_an_interlaced_png_cut_between_passes_is_no_picture() -> None:
    assert pixels(interlaced(7)).min() == 200
    for passes in range(1, 7):
        assert refused(interlaced(passes)).code is ErrorCode.TRUNCATED


def test_pngs_whose_chunks_make_no_sense_are_refused() -> None:
    rows = zlib.compress((b"\x00" + b"\x05" * 8) * 8)
    idat = png_chunk(b"IDAT", rows)
    text = png_chunk(b"tEXt", b"a\x00b")
    half = (png_chunk(b"IDAT", rows[:6]), text, png_chunk(b"IDAT", rows[6:]))
    second = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    decoded(png(8, 8, idat, colour=0))
    assert refused(png(8, 8, idat, colour=3)).code is ErrorCode.CORRUPT_IMAGE
    assert refused(png(8, 8, *half, colour=0)).code is ErrorCode.CORRUPT_IMAGE
    assert refused(png(8, 8, second, idat, colour=0)).code is ErrorCode.CORRUPT_IMAGE
    assert refused(png(8, 8, png_chunk(b"ABCD", b""), idat, colour=0)).code is (
        ErrorCode.CORRUPT_IMAGE
    )
    late = png_chunk(b"tRNS", struct.pack(">H", 5))
    assert decoded(png(8, 8, idat, late, colour=0)).pixels[0].max() == 5


def test_a_still_picture_before_an_animation_is_said() -> None:
    control = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    rows = png_chunk(b"IDAT", zlib.compress((b"\x00" + b"\x05" * 8) * 8))
    frame = png_chunk(b"fcTL", bytes(26))
    assert decoded(png(8, 8, control, rows, frame, colour=0)).facts.frames == 2
    assert decoded(png(8, 8, control, frame, rows, colour=0)).facts.frames == 1


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encode(scene((640, 480)), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    assert refused(bytes(data)).code is ErrorCode.CORRUPT_IMAGE


def test_a_png_with_fewer_rows_than_promised_is_refused() -> None:
    rows = b"".join(b"\x00" + bytes((200, 100, 50)) * 64 for _ in range(20))
    data = png(64, 64, png_chunk(b"IDAT", zlib.compress(rows)))
    assert refused(data).code is ErrorCode.TRUNCATED


def test_a_black_png_is_complete() -> None:
    assert pixels(encode(Image.new("RGB", (300, 300)), "PNG")).max() == 0


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_a_header_that_claims_too_much_is_refused_at_once(size: tuple[int, int]) -> None:
    start = time.process_time()
    outcome = refused(png(*size, png_chunk(b"IDAT", zlib.compress(b"\x00"))))
    assert time.process_time() - start < 1  # far below what its rows would cost
    assert outcome.code is ErrorCode.TOO_MANY_PIXELS
    assert "--max-megapixels" in outcome.message
    assert outcome.facts.width == size[0]


def test_a_34_byte_webp_of_268_megapixels_is_refused_from_its_header() -> None:
    bits = (16383) | (16383 << 14)
    payload = b"\x2f" + struct.pack("<I", bits) + b"\x88\x88\x08"
    body = b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    assert refused(data.ljust(34, b"\x00")).code is ErrorCode.TOO_MANY_PIXELS


def test_the_pixel_limit_is_a_limit() -> None:
    data = encode(scene((200, 100)), "PNG")
    assert refused(data, Limits(max_pixels=19_999)).code is ErrorCode.TOO_MANY_PIXELS
    decoded(data, Limits(max_pixels=20_000))


def test_a_big_baseline_jpeg_is_decoded_small() -> None:
    data = encode(scene((8000, 6000)), "JPEG", quality=60)
    start = time.process_time()
    outcome = decoded(data)
    full = time.process_time() - start
    assert outcome.facts.width == 8000
    with Image.open(io.BytesIO(data)) as image:
        start = time.process_time()
        image.resize((96, 96))
        assert full < time.process_time() - start, "no cheaper than a full decode"
    assert (
        difference(outcome.pixels[0].astype(np.int16), pixels(encode(scene((800, 600)), "PNG"))) < 3
    )


def test_other_formats_never_reach_a_decoder() -> None:
    for kind in ("TIFF", "ICO", "PPM", "TGA", "EPS", "JPEG2000", "PDF"):
        buffer = io.BytesIO()
        scene((64, 64)).save(buffer, kind)
        assert refused(buffer.getvalue()).code is ErrorCode.NOT_AN_IMAGE


def test_extremely_long_pictures_take_little_memory() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decoded(encode(Image.new("L", (20_000_000, 1), 77), "PNG"))
    # The picture itself is 20 MB as L and 80 MB as RGB; filter weights would add 320 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


SEEDS = [encode(palette_scene((96, 72)), kind) for kind in FORMATS] + [
    encode(palette_scene((64, 64)), kind, save_all=True, append_images=[palette_scene((64, 64), 1)])
    for kind in ("GIF", "WEBP", "PNG")
]


mutations = given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))


@mutations
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_decode_raise(data: bytes, rng: random.Random) -> None:
    decode_mutated(data, rng)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@mutations
@settings(max_examples=50_000, deadline=None)
def test_no_bytes_make_decode_raise_at_length(data: bytes, rng: random.Random) -> None:
    decode_mutated(data, rng)


def decode_mutated(data: bytes, rng: random.Random) -> None:
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(mutated))
        action = rng.random()
        if action < 0.6:
            mutated[at] = rng.randrange(256)
        elif action < 0.8:
            del mutated[at : at + rng.randint(1, 64)]
        else:
            mutated[at:at] = rng.randbytes(rng.randint(1, 32))
        if not mutated:
            break
    outcome = decode(bytes(mutated), (SPEC,), Limits(max_pixels=4_000_000))
    assert isinstance(outcome, Decoded | Undecoded)
    if isinstance(outcome, Decoded):
        assert outcome.pixels[0].shape == SPEC.shape


# WebP ---------------------------------------------------------------------------------------------

# Lossless, 1 x 1: a black pixel whose alpha is zero.
SMALLEST_WEBP = bytes.fromhex("5249464614000000574542505650384c080000002f0000000088880c")


def test_the_smallest_webp_is_scored_and_refused_cut() -> None:
    assert len(SMALLEST_WEBP) == 28
    assert decoded(SMALLEST_WEBP).facts.width == 1
    for length in range(12, 28):
        assert isinstance(decode(SMALLEST_WEBP[:length], (SPEC,), Limits()), Undecoded)


def test_alpha_of_a_lossless_webp_is_drawn_whether_it_is_stated_or_not() -> None:
    shape = scene((64, 64)).convert("L").point(lambda value: 255 * (value > 110))
    image = Image.new("RGBA", (64, 64))  # black, so that the shape is in the alpha alone
    image.putalpha(shape)
    stated = encode(image, "WEBP", exact=True)
    assert stated[12:16] == b"VP8L"
    chunk = stated[12:]
    silent = chunk[:12] + bytes((chunk[12] & ~0x10,)) + chunk[13:]
    wanted = pixels(encode(image, "PNG"))
    canvas = b"\x3f\x00\x00" * 2  # width and height, less one
    for picture in (chunk, silent):
        for flags in (None, 0, 0x10):
            head = b"" if flags is None else b"VP8X" + struct.pack("<II", 10, flags) + canvas
            body = b"WEBP" + head + picture
            data = b"RIFF" + struct.pack("<I", len(body)) + body
            assert difference(pixels(data), wanted) == 0
            assert Warn.ALPHA_AMBIGUOUS in decoded(data).facts.warnings
