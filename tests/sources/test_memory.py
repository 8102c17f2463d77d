"""Images in memory: what becomes of bytes, files, Pillow images and arrays before decoding."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.errors import UsageError
from moderate.sources.memory import MemorySource, check_items
from moderate.sources.resolve import InputOptions, resolve
from moderate.types import ErrorCode, ImageRef, Inline, Limits, Warn
from tests.support.pictures import encode, scene

PNG = encode(scene((60, 40)), "PNG")


def refs(*items: Any, **options: Any) -> list[ImageRef]:
    found = list(MemorySource(items, **options))
    assert all(isinstance(ref, ImageRef) for ref in found)
    return found  # type: ignore[return-value]


def data_of(ref: ImageRef) -> bytes:
    assert ref.error is None, ref.error
    assert isinstance(ref.location, Inline)
    return ref.location.data


def pixels_of(ref: ImageRef) -> Image.Image:
    assert isinstance(ref.location, Inline)
    assert ref.location.from_pixels
    return Image.open(io.BytesIO(data_of(ref)))


def test_bytes_and_files_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    written = io.BytesIO()
    written.write(PNG)  # and it stands at its end
    with path.open("rb") as file:
        found = refs(PNG, bytearray(PNG), memoryview(PNG), written, file, first=7)
    assert [data_of(ref) for ref in found] == [PNG] * 5
    names = [b"memory://7", b"memory://8", b"memory://9", b"memory://10", bytes(path)]
    assert [ref.display for ref in found] == names
    assert not any(ref.location.from_pixels for ref in found)  # type: ignore[union-attr]


def test_a_file_that_is_called_by_its_url_shows_no_credentials() -> None:
    file = io.BytesIO(PNG)
    file.name = "https://user:pass@h/a.png?w=1&sig=abc"  # type: ignore[attr-defined]
    (ref,) = refs(file)
    assert ref.display == b"https://***@h/a.png?w=1&sig=***"


def test_pixels_are_encoded_without_loss() -> None:
    rng = np.random.default_rng(0)
    for shape in [(5, 7, 3), (5, 7, 4), (5, 7), (5, 7, 1), (1, 1, 3)]:
        array = rng.integers(0, 256, shape, dtype=np.uint8)
        (ref,) = refs(array)
        assert np.array_equal(np.asarray(pixels_of(ref)).reshape(shape), array)
    strided = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)[::-2, ::3]
    (ref,) = refs(strided)
    assert np.array_equal(np.asarray(pixels_of(ref)), strided)
    picture = scene((60, 40)).convert("RGBA")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
        (ref,) = refs(image)
        kept = pixels_of(ref)
        assert (kept.mode, kept.tobytes()) == (image.mode, image.tobytes())
    for mode, shown in [("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("RGBa", "RGBA")]:
        image = (picture if mode == "RGBa" else picture.convert("RGB")).convert(mode)
        (ref,) = refs(image)
        assert pixels_of(ref).tobytes() == image.convert(shown).tobytes(), mode


def test_an_image_that_pillow_only_opened_is_not_decoded_here() -> None:
    """Its file may be hostile: it goes to the sandboxed decoders as it is."""
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        data = encode(scene((60, 40)), kind)
        opened = Image.open(io.BytesIO(data))
        assert data_of(refs(opened)[0]) == data, kind
        opened.load()  # it still can
        assert refs(opened)[0].location.from_pixels  # type: ignore[union-attr]
    truncated = Image.open(io.BytesIO(PNG[:-60]))
    assert data_of(refs(truncated)[0]) == PNG[:-60], "for the decoder to judge"
    changed = Image.open(io.BytesIO(encode(scene((60, 40)), "PNG")))
    changed.putpixel((0, 0), (1, 2, 3))
    assert pixels_of(refs(changed)[0]).getpixel((0, 0)) == (1, 2, 3)


def test_a_decoded_frame_of_an_animation_is_said_to_be_a_part_of_it() -> None:
    frames = [scene((60, 40), seed) for seed in range(3)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (ref,) = refs(Image.open(io.BytesIO(data)))
    assert (data_of(ref), ref.warnings) == (data, ())
    decoded = Image.open(io.BytesIO(data))
    decoded.load()
    assert refs(decoded)[0].warnings == (Warn.PARTLY_SCORED,)
    later = Image.open(io.BytesIO(data))
    later.seek(2)
    assert refs(later)[0].warnings == (Warn.PARTLY_SCORED,)
    assert refs(decoded.copy())[0].warnings == ()


def test_the_orientation_that_an_image_carries_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(io.BytesIO(encode(scene((60, 40)), "PNG", exif=exif)))
    turned.load()
    (ref,) = refs(turned)
    assert pixels_of(ref).size == (40, 60)


def test_what_is_no_image_gets_the_error_of_its_row(tmp_path: Path) -> None:
    class Odd:
        @property
        def read(self) -> None:
            raise KeyError("odd")

    closed = io.BytesIO(PNG)
    closed.close()
    (tmp_path / "t").write_text("text")
    small = Limits(max_file_bytes=100, max_pixels=100)
    with (tmp_path / "t").open() as text:
        items = [None, 3, {}, b"", closed, text, Odd(), np.zeros((4, 4, 3)),
                 np.zeros((2, 3, 4, 4), np.uint8),
                 np.zeros((0, 4, 3), np.uint8), Image.new("F", (3, 3)), PNG, io.BytesIO(PNG),
                 np.zeros((11, 11, 3), np.uint8), Image.new("RGB", (11, 11))]  # fmt: skip
        found = refs(*items, limits=small)
    bad = ErrorCode.BAD_INPUT
    codes = [ref.error.code for ref in found if ref.error]
    assert codes == [bad, bad, bad, ErrorCode.EMPTY_FILE, ErrorCode.READ_ERROR, bad, bad, bad, bad,
                     bad, bad, ErrorCode.FILE_TOO_LARGE, ErrorCode.FILE_TOO_LARGE,
                     ErrorCode.TOO_MANY_PIXELS, ErrorCode.TOO_MANY_PIXELS]  # fmt: skip
    assert [ref.display for ref in found] == [b"memory://%d" % n for n in range(len(items))]
    messages = [ref.error.message for ref in found if ref.error]
    assert all("\n" not in message for message in messages)
    assert "NoneType is not an image; pass a path" in messages[0]
    assert "text mode" in messages[5]
    assert "float64 and shape 4 x 4 x 3" in messages[7]


def test_the_largest_encoding_fits_where_the_decoder_reads_it() -> None:
    rng = np.random.default_rng(0)
    for shape in [(64, 64, 4), (4096, 1, 4), (1, 4096, 4), (2048, 1), (64, 64, 3), (4096, 1, 3)]:
        noise = rng.integers(0, 256, shape, dtype=np.uint8)
        limits = Limits(max_pixels=shape[0] * shape[1])
        (ref,) = refs(noise, limits=limits)
        assert len(data_of(ref)) <= MemorySource(()).largest_image(limits), shape


def test_names_stand_among_images_only_where_they_may() -> None:
    found = refs("a.jpg", Path("b.png"), "", "ftp://host/a", "a\udcffb", "\ud800", named=True)
    assert [ref.path for ref in found[:2]] == [b"a.jpg", b"b.png"]
    assert found[4].path == b"a\xffb"
    codes = [ref.error and ref.error.code for ref in found]
    assert codes == [None, None, ErrorCode.BAD_INPUT, ErrorCode.BAD_URL, None, ErrorCode.BAD_INPUT]
    assert refs("a.jpg")[0].error is not None


def test_inputs_that_are_no_names_are_images_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    sources = resolve([tmp_path, PNG, np.zeros((2, 2, 3), np.uint8)], InputOptions())
    found = [ref.display for source in sources for ref in source]  # type: ignore[union-attr]
    assert found[1:] == [b"memory://1", b"memory://2"]
    with pytest.raises(UsageError, match=r"list is not an input; unpack it: scan\(\*images\)"):
        resolve([["a.png"]], InputOptions())  # type: ignore[list-item]
    with pytest.raises(UsageError, match="NoneType is not an input; pass a path"):
        resolve([None], InputOptions())  # type: ignore[list-item]


def test_one_image_is_no_list_of_images() -> None:
    for item in (
        "a.jpg",
        b"...",
        Path("a"),
        Image.new("L", (1, 1)),
        np.zeros((2, 2)),
        3,
        io.BytesIO(),
    ):
        with pytest.raises(UsageError, match="takes a list of images, not"):
            check_items(item)
    check_items([])
    check_items(iter("ab"))
