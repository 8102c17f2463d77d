"""PNG data that ISA-L inflates is what Pillow makes of the file by itself, or is left to Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from moderate.decode import inflate
from moderate.decode.containers import png_is_complete, read_png
from moderate.decode.image import Decoded, decode
from moderate.decode.inflate import stored_chunk
from moderate.decode.resize import PixelSpec
from moderate.types import ErrorCode, Limits
from tests.support.pictures import encode, png, png_chunk, scene

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")
RAW = np.random.default_rng(1).integers(0, 60, 300_000, dtype=np.uint8).tobytes()


def large(mode: str) -> bytes:
    """A PNG with enough data to be inflated here, whatever its mode."""
    picture = scene((2000, 1500))
    if mode == "I;16":
        levels = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        picture = Image.fromarray(levels)
    else:
        picture = picture.convert(mode)
    return encode(picture, "PNG")


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def pieces(data: bytes, count: int = 3) -> list[memoryview]:
    step = -(-len(data) // count)
    return [memoryview(data)[at : at + step] for at in range(0, len(data), step)]


def stored(data: bytes, length: int = len(RAW)) -> bytes | None:
    chunk = stored_chunk(pieces(data), length)
    return None if chunk is None else b"".join(chunk)


@pytest.mark.parametrize("mode", MODES)
def test_pillow_gets_other_bytes_and_gives_the_same_pixels(mode: str) -> None:
    data = large(mode)
    container = read_png(data)
    assert container.data.count(b"IDAT\x78\x01\x00\xff\xff") == 1, "in stored blocks"
    assert png_is_complete(container)
    np.testing.assert_array_equal(by_pillow(container.data), by_pillow(data))


def test_a_chunk_in_stored_blocks_holds_the_same_data_and_fits_its_checksum() -> None:
    for level in (0, 1, 6, 9):
        chunk = stored(zlib.compress(RAW, level))
        assert chunk is not None
        length, kind = struct.unpack_from(">I4s", chunk)
        assert kind == b"IDAT"
        assert len(chunk) == length + 12
        assert zlib.decompress(chunk[8:-4]) == RAW
        assert int.from_bytes(chunk[-4:], "big") == zlib.crc32(chunk[4:-4])


@pytest.mark.parametrize("length", [65_536, 65_535 * 2, 65_535 * 2 + 1, len(RAW)])
def test_blocks_of_every_length(length: int) -> None:
    chunk = stored(zlib.compress(RAW[:length]), length)
    assert chunk is not None
    assert zlib.decompress(chunk[8:-4]) == RAW[:length]


def test_data_that_is_not_whole_and_sound_is_left_to_pillow() -> None:
    sound = zlib.compress(RAW)
    assert stored(sound) is not None
    assert stored(sound + b"left over") is not None, "which every decoder ignores"
    assert stored(sound[:-1]) is None, "no end of the checksum"
    assert stored(sound[: len(sound) // 2]) is None
    assert stored(sound[:-4] + b"\x00\x00\x00\x00") is None, "a wrong checksum"
    assert stored(b"\x78\x00" + sound[2:]) is None, "a wrong header"
    assert stored(sound[:1000] + b"\xff" * 64 + sound[1064:]) is None
    assert stored(zlib.compress(RAW[:-1])) is None, "too little for the rows"
    assert stored(zlib.compress(RAW + b"\x00")) is None, "too much for the rows"
    assert stored_chunk([], len(RAW)) is None


def test_no_more_is_inflated_than_the_header_promises() -> None:
    bomb = zlib.compress(bytes(1 << 28), 9)
    assert stored(bomb, 100_000) is None
    assert stored_chunk([memoryview(bomb)], 1 << 28) is None, "more than is worth its memory"
    assert stored_chunk([memoryview(zlib.compress(bytes(100)))], 100) is None, "too little"


def test_a_png_that_lacks_rows_is_refused_as_ever() -> None:
    rows = (b"\x00" + b"\xc8" * 900) * 250
    data = png(300, 300, png_chunk(b"IDAT", zlib.compress(rows)))
    outcome = decode(data, (PixelSpec(64, 64),), Limits())
    assert not isinstance(outcome, Decoded)
    assert outcome.code is ErrorCode.TRUNCATED


def test_without_the_library_pillow_inflates(monkeypatch: pytest.MonkeyPatch) -> None:
    data = large("RGB")
    fast = decode(data, (PixelSpec(64, 64),), Limits())
    monkeypatch.setattr(inflate, "isal_zlib", lambda: None)
    assert stored(zlib.compress(RAW)) is None
    slow = decode(data, (PixelSpec(64, 64),), Limits())
    assert isinstance(fast, Decoded)
    assert isinstance(slow, Decoded)
    np.testing.assert_array_equal(fast.pixels[0], slow.pixels[0])
