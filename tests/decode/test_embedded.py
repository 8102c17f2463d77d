"""What a file holds behind its picture or beside it: found in every container, ordinary files not
flagged, bounded for any bytes."""

from __future__ import annotations

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from moderate.decode.carving import LEAST_UNKNOWN_BYTES
from moderate.decode.embedded import MOST_EMBEDDED, find_embedded
from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.parts import DecodeOptions
from moderate.decode.resize import PixelSpec
from moderate.decode.sniff import sniff
from moderate.decode.unscored import THUMBNAIL_DIFFERS, THUMBNAIL_UNREAD
from moderate.testcards import draw_card
from moderate.types import ErrorCode, Limits, Warn
from tests.support.heics import Heic, box, coded
from tests.support.pictures import (
    FORMATS,
    encode,
    exif_block,
    jpeg_with_segment,
    png_chunk,
    png_with_chunk,
    scene,
)

SPECS = (PixelSpec(48, 48),)
CARD = draw_card("nudity", "block", 1, 96)
PHOTO = scene((320, 240), seed=3)
MP4 = box(b"ftyp", b"mp42" + bytes(4) + b"mp42isom") + box(b"mdat", b"\1" * 900) + box(b"moov", b"")
HTML = b"<!DOCTYPE html><html><body>" + b"text " * 30


@pytest.fixture(autouse=True, scope="module")
def prepared() -> None:
    prepare()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("card.png", encode(CARD, "PNG"))
    return buffer.getvalue()


def embedded(data: bytes, options: DecodeOptions | None = None) -> tuple[str, ...]:
    """What the file's row names; the warning is there exactly where something is named."""
    outcome = decode(data, SPECS, Limits(), options or DecodeOptions(frames="first"))
    assert isinstance(outcome, Decoded), outcome
    assert bool(outcome.facts.embedded) == (Warn.EMBEDDED_CONTENT in outcome.facts.warnings)
    return outcome.facts.embedded


def exif_with_thumbnail(thumbnail: bytes, orientation: int = 1) -> bytes:
    """An EXIF block whose second directory holds a JPEG thumbnail."""
    first = struct.pack("<HHHIII", 1, 0x0112, 3, 1, orientation, 26)
    second = struct.pack("<HHHII", 3, 0x0103, 3, 1, 6)
    second += struct.pack("<HHII", 0x0201, 4, 1, 26 + 42)
    second += struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail)) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + thumbnail


def photo_with_thumbnail(
    photo: Image.Image, thumbnail: Image.Image | bytes, kind: str = "JPEG", orientation: int = 1
) -> bytes:
    data = thumbnail if isinstance(thumbnail, bytes) else encode(thumbnail, "JPEG", quality=75)
    block = exif_with_thumbnail(data, orientation)
    if kind == "AVIF":  # of which Pillow drops the thumbnail where it drops the orientation
        block = block.replace(b"\x12\x01", b"\x28\x01", 1)
    return encode(photo, kind, exif=block)


# Behind the picture -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("card", FORMATS)
def test_a_picture_behind_a_picture_is_named_with_its_kind_and_size(kind: str, card: str) -> None:
    behind = encode(CARD, card)
    data = encode(PHOTO, kind) + behind
    if kind == "HEIF" and card in {"HEIF", "AVIF"}:  # libheif refuses a second file of its kind
        assert isinstance(decode(data, SPECS, Limits()), Undecoded)
        return
    named = embedded(data)
    assert named == (f"{card.lower()} of {len(behind):,} bytes",)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("mp4", MP4),
        ("zip", zipped()),
        ("rar", b"Rar!\x1a\x07\x01\x00" + b"r" * 200),
        ("7z", b"7z\xbc\xaf\x27\x1c" + b"z" * 200),
        ("pdf", b"%PDF-1.7\n" + b"p" * 200),
        ("html", HTML),
        ("script", b"<script>" + b"s" * 200),
        ("tiff", encode(CARD, "TIFF")),
    ],
)
def test_videos_archives_and_pages_behind_a_picture_are_named(
    kind: str, name: str, behind: bytes
) -> None:
    for junk in (b"", bytes(100)):
        named = embedded(encode(PHOTO, kind) + junk + behind)
        assert named == (f"{name} of {len(behind):,} bytes",)


def test_what_is_behind_is_found_after_other_bytes_and_behind_one_another() -> None:
    one, two = encode(CARD, "JPEG"), encode(CARD, "PNG")
    data = encode(PHOTO, "JPEG") + os.urandom(50) + one + b"between" + two + MP4 + b"end"
    assert embedded(data) == (
        f"jpeg of {len(one):,} bytes",
        f"png of {len(two):,} bytes",
        f"mp4 of {len(MP4):,} bytes",
    )


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 2}, {}])
def test_a_jpeg_ends_at_its_own_end_marker(options: dict[str, object]) -> None:
    photo = encode(PHOTO, "JPEG", **options)
    # Comments between, and thumbnails in, its segments have end markers, too.
    photo = jpeg_with_segment(photo, 0xFE, b"\xff\xd9 comment \xff\xd9")
    assert embedded(photo) == ()
    (found,) = find_embedded(photo + encode(CARD, "JPEG"), "jpeg").others
    assert found.start == len(photo)


def test_a_jpeg_that_breaks_off_where_another_begins_is_truncated() -> None:
    photo = encode(PHOTO, "JPEG")
    outcome = decode(photo[: len(photo) // 2] + encode(CARD, "JPEG"), SPECS, Limits())
    assert isinstance(outcome, Undecoded)
    assert outcome.code == ErrorCode.TRUNCATED


def test_pictures_that_the_multi_picture_index_names_are_not_named_again() -> None:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "MPO", save_all=True, append_images=[CARD])
    mpo = buffer.getvalue()
    assert find_embedded(mpo, "jpeg").others == ()
    behind = encode(CARD, "JPEG")
    (found,) = find_embedded(mpo + behind, "jpeg").others
    assert found.start == len(mpo)


@pytest.mark.parametrize("kind", FORMATS)
def test_trailers_of_cameras_and_padding_are_not_named(kind: str) -> None:
    photo = encode(PHOTO, kind)
    samsung = (
        b"\0\0\1\n\x0e\0\0\0Image_UTC_Data1669485600000" * 3000 + b"SEFH" + bytes(24) + b"SEFT"
    )
    for trailer in (bytes(300_000), b"\xff" * 300_000, samsung, os.urandom(2000), b"<x:xmpmeta/>"):
        assert embedded(photo + trailer) == ()


def test_much_data_of_an_unknown_kind_is_named() -> None:
    unknown = b"\x01" + os.urandom(2 * LEAST_UNKNOWN_BYTES)
    (named,) = embedded(encode(PHOTO, "JPEG") + unknown)
    assert named == f"data of {len(unknown):,} bytes"


# Beside the picture -------------------------------------------------------------------------------


@pytest.mark.parametrize("card", ["JPEG", "PNG", "WEBP", "GIF"])
def test_pictures_in_segments_and_chunks_are_named(card: str) -> None:
    inside = encode(CARD, card)
    name = (f"{card.lower()} of {len(inside):,} bytes",)
    assert embedded(jpeg_with_segment(encode(PHOTO, "JPEG"), 0xEB, b"maker\0" + inside)) == name
    assert embedded(png_with_chunk(encode(PHOTO, "PNG"), png_chunk(b"prVw", inside))) == name
    webp = encode(PHOTO, "WEBP", exif=exif_block(1))  # so that it has a VP8X chunk
    chunk = b"XTRA" + struct.pack("<I", len(inside)) + inside + bytes(len(inside) % 2)
    webp = webp + chunk
    webp = webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]
    assert embedded(webp) == name
    assert embedded(encode(PHOTO, "HEIF") + box(b"free", inside)) == name


def test_a_picture_between_a_bitmaps_header_and_its_pixels_is_named() -> None:
    bmp, inside = encode(PHOTO, "BMP"), encode(CARD, "PNG")
    size, offset = len(bmp) + len(inside), 54 + len(inside)
    moved = bmp[:2] + struct.pack("<IHHI", size, 0, 0, offset) + bmp[14:54] + inside + bmp[54:]
    assert embedded(moved) == (f"png of {len(inside):,} bytes",)


def test_the_video_of_a_motion_photo_in_a_heic_is_named() -> None:
    data = encode(PHOTO, "HEIF") + box(b"mpvd", MP4)
    assert embedded(data) == (f"mp4 of {len(MP4):,} bytes",)


def test_a_preview_that_shows_the_picture_is_not_named() -> None:
    preview = encode(PHOTO.resize((160, 120)), "JPEG")
    photo = encode(PHOTO, "JPEG")
    assert embedded(photo + preview) == ()
    assert embedded(jpeg_with_segment(photo, 0xEB, preview)) == ()


def test_what_is_scored_by_itself_is_not_named() -> None:
    data = encode(PHOTO, "JPEG") + encode(CARD, "JPEG") + zipped()
    scored = DecodeOptions(frames="first", embedded_scored=("jpeg",))
    assert embedded(data, scored) == (f"zip of {len(zipped()):,} bytes",)


# Thumbnails ---------------------------------------------------------------------------------------


def photographs() -> list[Image.Image]:
    folder = os.path.join(os.path.dirname(__file__), "..", "..", "sample_images")
    names = ("astronaut", "cat", "coffee", "galaxies", "photographer", "rocket")
    return [Image.open(os.path.join(folder, f"photo_{name}.jpg")).convert("RGB") for name in names]


def test_thumbnails_as_cameras_make_them_are_not_named() -> None:
    for photo in photographs():
        thumbnails = [
            ImageOps.pad(photo, (160, 120), color="black"),
            ImageOps.contain(photo, (160, 160)),
            ImageOps.fit(photo, (160, 120)),
        ]
        width, height = photo.size
        edited = [
            photo,
            ImageEnhance.Brightness(photo).enhance(1.4),
            ImageEnhance.Contrast(photo).enhance(1.5),
            photo.convert("L").convert("RGB"),
            photo.crop((width // 10, height // 10, width, height)),
        ]
        for number, edit in enumerate(edited):
            data = photo_with_thumbnail(edit, thumbnails[number % 3])
            assert embedded(data) == (), (photo, number)
        for orientation in (3, 6, 8):
            data = photo_with_thumbnail(photo, thumbnails[1], orientation=orientation)
            assert embedded(data) == ()


def test_a_thumbnail_of_another_picture_is_named() -> None:
    photos = [*photographs(), draw_card("violence", "block", 2, (320, 240))]
    for number, photo in enumerate(photos):
        for other in photos[:number] + photos[number + 1 :]:
            thumbnail = ImageOps.pad(other, (160, 120), color="black")
            assert embedded(photo_with_thumbnail(photo, thumbnail)) == (THUMBNAIL_DIFFERS,)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_exif_thumbnails_count_in_every_container(kind: str) -> None:
    (photo, *_) = photographs()
    small = photo.resize((160, 160))
    assert embedded(photo_with_thumbnail(photo, small, kind)) == ()
    assert embedded(photo_with_thumbnail(photo, CARD, kind)) == (THUMBNAIL_DIFFERS,)


def test_a_thumbnail_without_end_marker_is_compared_and_a_broken_one_named() -> None:
    (photo, *_) = photographs()
    card = encode(CARD, "JPEG")
    assert embedded(photo_with_thumbnail(photo, card[:-2])) == (THUMBNAIL_DIFFERS,)
    broken = card[:4] + bytes(600)
    assert embedded(photo_with_thumbnail(photo, broken)) == (THUMBNAIL_UNREAD,)
    assert embedded(photo_with_thumbnail(photo, b"no picture" * 20)) == ()


def test_thumbnails_of_photoshop_and_jfif_count() -> None:
    (photo, *_) = photographs()
    for copy, named in ((photo.resize((160, 160)), ()), (CARD, (THUMBNAIL_DIFFERS,))):
        inside = encode(copy, "JPEG", quality=60)
        resource = b"8BIM" + struct.pack(">HHI", 1036, 0, 28 + len(inside)) + bytes(28) + inside
        data = jpeg_with_segment(encode(photo, "JPEG"), 0xED, b"Photoshop 3.0\0" + resource)
        assert embedded(data) == named
        assert embedded(jpeg_with_segment(encode(photo, "JPEG"), 0xE0, b"JFXX\0\x10" + inside)) == (
            named
        )


def test_thumbnails_of_jfif_without_compression_count() -> None:
    (photo, *_) = photographs()
    plain = encode(photo, "JPEG")
    assert plain[6:11] == b"JFIF\0"
    for copy, named in ((photo, ()), (CARD, (THUMBNAIL_DIFFERS,))):
        small = copy.resize((100, 100))
        few = small.quantize(256)
        sides, palette = bytes((100, 100)), bytes(few.getpalette() or ()).ljust(768, b"\0")
        rgb = sides + small.tobytes()
        head = plain[6:18] + rgb
        in_head = plain[:4] + struct.pack(">H", 2 + len(head)) + head + plain[20:]
        assert embedded(in_head) == named
        for code, content in ((b"\x13", rgb), (b"\x11", sides + palette + few.tobytes())):
            data = jpeg_with_segment(plain, 0xE0, b"JFXX\0" + code + content)
            assert embedded(data) == named
    cut = jpeg_with_segment(plain, 0xE0, b"JFXX\0\x13" + bytes((100, 100)) + bytes(600))
    assert embedded(cut) == (THUMBNAIL_UNREAD,)


def test_the_thumbnail_of_a_heic_is_compared() -> None:
    (photo, *_) = photographs()
    assert embedded(encode(photo, "HEIF", thumbnails=[160])) == ()
    for copy, named in ((photo.resize((160, 160)), ()), (CARD, (THUMBNAIL_DIFFERS,))):
        items = (coded(photo, 1), coded(copy, 2))
        assert embedded(Heic(items, ((b"thmb", 2, (1,)),)).build()) == named


# Hostile bytes ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_any_bytes_are_searched_without_an_exception(kind: str, data: st.DataObject) -> None:
    good = bytearray(encode(PHOTO.resize((40, 30)), kind) + encode(CARD, "PNG") + MP4)
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(12, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(12, len(good)))])
    for each in find_embedded(cut, sniff(cut) or "").others:
        assert 0 <= each.start < each.end <= len(cut)


def test_a_bmp_whose_header_is_cut_or_odd_is_searched_without_an_exception() -> None:
    good = encode(PHOTO.resize((40, 30)), "BMP")
    for broken in (good[:18], good[:40], good[:14] + b"\x0d\0\0\0" + good[18:]):
        assert not find_embedded(broken, "bmp").others


@pytest.mark.parametrize(
    "repeated",
    [
        b"\xff\xd8\xff\xe0\0\2",
        b"\xff\xd8\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xda\0\2",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"GIF89a\1\0\1\0\0\0\0",
        b"\0\0\0\x10ftypmp42\0\0\0\0",
        b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0",
        b"PK\3\4",
        b"<script>",
    ],
)
def test_what_looks_like_many_files_is_bounded_and_not_passed_over(repeated: bytes) -> None:
    data = encode(PHOTO, "JPEG") + repeated * (300_000 // len(repeated))
    found = find_embedded(data, "jpeg").others
    assert 0 < len(found) <= MOST_EMBEDDED


def test_so_many_segments_are_not_walked_to_the_end() -> None:
    photo = encode(PHOTO, "JPEG")
    data = photo[:2] + b"\xff\xe5\0\2" * 400_000 + photo[2:] + encode(CARD, "PNG")
    (found,) = find_embedded(data, "jpeg").others
    assert found.kind == "data"
    assert found.end == len(data)


def test_noise_holds_nothing() -> None:
    noise = np.random.default_rng(5).integers(0, 256, 60_000, dtype=np.uint8).tobytes()
    assert find_embedded(encode(PHOTO, "JPEG") + noise, "jpeg").others == ()
