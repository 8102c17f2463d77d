"""WebP straight from libwebp: the pixels and verdicts of Pillow, and Pillow for all the rest."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.decode import webp
from moderate.decode.image import Decoded, Undecoded, prepare
from moderate.decode.webp import Library, StillWebp, libwebp, open_webp
from moderate.types import Limits
from tests.support.decoding import outcome
from tests.support.pictures import encode, exif_block, scene

LOSSY: dict[str, Any] = {"lossless": False, "quality": 80}
PROFILE = b"a broken profile, which is not applied"
METADATA: dict[str, Any] = {"exif": exif_block(6), "icc_profile": PROFILE, "xmp": b"<x/>"}
ODD_SIZES = [(1, 1), (1, 37), (53, 1), (2, 3), (17, 15), (61, 43), (16383, 2), (3, 16383)]


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def by_pillow(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["WEBP"])
    image.load()
    return image


@contextmanager
def without_libwebp() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webp, "libwebp", lambda: None)
        yield


def same(one: Decoded | Undecoded, other: Decoded | Undecoded) -> bool:
    if isinstance(one, Undecoded) or isinstance(other, Undecoded):
        return one == other
    arrays = zip(one.pixels, other.pixels, strict=True)
    return one.facts == other.facts and all(np.array_equal(a, b) for a, b in arrays)


def assert_judged_alike(data: bytes, what: object = "") -> None:
    """The file has the same outcome as without this reader."""
    straight = outcome(data)
    with without_libwebp():
        assert same(straight, outcome(data)), what


def chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) & 1)


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(size: tuple[int, int], flags: int = 0) -> bytes:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    return chunk(b"VP8X", bytes((flags, 0, 0, 0)) + sides)


SIZE = (61, 43)
SIMPLE = encode(scene(SIZE), "WEBP", **LOSSY)
EXTENDED = encode(scene(SIZE), "WEBP", **LOSSY, **METADATA)
PICTURE = SIMPLE[12:]  # the chunk with the image
EXIF = chunk(b"EXIF", exif_block(6))


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
@pytest.mark.parametrize("quality", [5, 80, 100])
def test_the_pixels_are_those_of_pillow(size: tuple[int, int], quality: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for image in (scene(size), Image.fromarray(noise)):
        data = encode(image, "WEBP", lossless=False, quality=quality)
        opened = open_webp(data)
        assert isinstance(opened, StillWebp)
        assert (opened.size, opened.mode) == (size, "RGB")
        assert opened.tobytes() == by_pillow(data).tobytes()


def test_metadata_are_those_of_pillow() -> None:
    opened, expected = open_webp(EXTENDED), by_pillow(EXTENDED)
    assert isinstance(opened, StillWebp)
    assert opened.info["exif"] == expected.info["exif"]
    assert opened.info["icc_profile"] == expected.info["icc_profile"] == PROFILE
    assert opened.info["xmp"] == expected.info["xmp"]
    assert_judged_alike(EXTENDED)
    turned = outcome(EXTENDED)
    assert isinstance(turned, Decoded)
    assert (turned.facts.width, turned.facts.height) == SIZE[::-1]


def test_what_follows_the_image_is_left_alone() -> None:
    for trailer in (b"\x00", b"VP8 " * 9, SIMPLE):
        assert isinstance(open_webp(SIMPLE + trailer), StillWebp)
        assert_judged_alike(SIMPLE + trailer)


def test_anything_unusual_is_left_to_pillow() -> None:
    translucent = scene(SIZE)
    translucent.putalpha(Image.linear_gradient("L").resize(SIZE))
    frames = {"save_all": True, "append_images": [scene(SIZE, 1)]}
    unusual = {
        "alpha": encode(translucent, "WEBP", **LOSSY),
        "lossless": encode(scene(SIZE), "WEBP"),
        "animated": encode(scene(SIZE), "WEBP", **LOSSY, **frames),
        "two images": riff(PICTURE, PICTURE),
        "another chunk": riff(canvas(SIZE), PICTURE, chunk(b"abcd", b"12")),
        "a second EXIF": riff(canvas(SIZE, 8), PICTURE, EXIF, EXIF),
        "EXIF that is not stated": riff(canvas(SIZE), PICTURE, EXIF),
        "alpha that is not there": riff(canvas(SIZE, 16), PICTURE),
        "another canvas": riff(canvas((62, 43)), PICTURE),
        "canvas behind the image": riff(PICTURE, canvas(SIZE)),
        "unknown flags": riff(canvas(SIZE, 1), PICTURE),
        "half a chunk": riff(PICTURE, b"EXIF"),
        "no image": riff(canvas(SIZE)),
    }
    for name, data in unusual.items():
        assert webp._still(data) is None, name
        assert_judged_alike(data, name)
    assert webp._still(riff(canvas(SIZE, 8), PICTURE, EXIF)) is not None


@pytest.mark.parametrize("data", [SIMPLE, EXTENDED], ids=["simple", "extended"])
def test_a_file_cut_anywhere_is_judged_as_by_pillow(data: bytes) -> None:
    for length in range(len(data)):
        assert isinstance(outcome(data[:length]), Undecoded), length
        # The same with the length of the file put right, so that only the image is cut.
        cut = data[:4] + struct.pack("<I", max(0, length - 8)) + data[8:length]
        assert_judged_alike(cut, length)
    whole = struct.unpack("<I", SIMPLE[16:20])[0]
    for kept in range(whole):
        assert_judged_alike(riff(chunk(b"VP8 ", SIMPLE[20 : 20 + kept])), kept)


@pytest.mark.parametrize("data", [SIMPLE, EXTENDED], ids=["simple", "extended"])
def test_damaged_files_are_judged_as_by_pillow(data: bytes) -> None:
    rng = np.random.default_rng(3)
    for at in range(8, 64):  # headers
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            assert_judged_alike(bytes(damaged), (at, bit))
    for number in range(300):
        damaged = bytearray(data)
        for at in rng.integers(8, len(data), int(rng.integers(1, 4))):
            damaged[at] = int(rng.integers(256))
        assert_judged_alike(bytes(damaged), number)


def test_without_the_library_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    straight = outcome(SIMPLE)
    libwebp.cache_clear()
    monkeypatch.setattr(webp.ctypes, "CDLL", lambda name: object())  # that has none of the calls
    try:
        assert libwebp() is None
        assert not isinstance(open_webp(SIMPLE), StillWebp)
        assert same(straight, outcome(SIMPLE))
    finally:
        libwebp.cache_clear()


def test_where_the_library_or_memory_fails_pillow_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    library = libwebp()
    assert library is not None
    straight = outcome(SIMPLE)
    with monkeypatch.context() as patch:
        patch.setattr(webp, "libwebp", lambda: Library(library.size, lambda *_: None))
        assert same(straight, outcome(SIMPLE))

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(webp.np, "empty", no_memory)
        opened = open_webp(SIMPLE)
        assert isinstance(opened, StillWebp)
        assert opened.tobytes() == by_pillow(SIMPLE).tobytes()


def test_pixels_over_the_limit_are_refused_before_they_are_decoded() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webp, "_decode", None)  # whoever calls it fails
        refused = outcome(SIMPLE, Limits(max_pixels=61 * 43 - 1))
    assert isinstance(refused, Undecoded)
    assert refused.code == "too_many_pixels"
