"""HEIC by FFmpeg: the image that libheif gives, to the bit, and libheif for all the rest."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from moderate.decode import hevc
from moderate.decode.image import Decoded, Undecoded, prepare
from tests.support.decoding import outcome
from tests.support.heics import Heic, Item, box, coded, full_box, grid, with_alpha, with_item
from tests.support.pictures import encode, exif_block, scene

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (110, 150, 3), dtype=np.uint8))
SINGLE = Heic((coded(scene((64, 128)), 1),))
GRID = grid(NOISE)  # 3 x 2 tiles; item 1 is the grid, 2 to 7 are the tiles


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def by_libheif(data: bytes) -> Image.Image:
    image = pillow_heif.HeifImageFile(io.BytesIO(data))
    image.load()
    return image


def by_ffmpeg(data: bytes) -> Image.Image | None:
    return hevc.decode(data, pillow_heif.HeifImageFile(io.BytesIO(data)))


def assert_same_image(data: bytes) -> None:
    straight, expected = by_ffmpeg(data), by_libheif(data)
    assert straight is not None
    assert (straight.mode, straight.size) == (expected.mode, expected.size)
    assert np.array_equal(np.asarray(straight), np.asarray(expected))


@contextmanager
def without_ffmpeg() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hevc, "ffmpeg", lambda: None)
        yield


def assert_judged_alike(data: bytes, what: object = "") -> None:
    """The file has the same error, or the same facts, as without FFmpeg."""
    straight = outcome(data)
    with without_ffmpeg():
        expected = outcome(data)
    if isinstance(straight, Undecoded) or isinstance(expected, Undecoded):
        assert straight == expected, what
    else:
        assert straight.facts == expected.facts, what


def with_properties(heic: Heic, number: int, *properties: bytes) -> Heic:
    (item,) = [item for item in heic.items if item.number == number]
    return with_item(heic, number, properties=(*item.properties, *properties))


# The same image -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (70, 70), (130, 90), (640, 64), (64, 2050)], ids=str)
def test_single_images_are_those_of_libheif(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for image in (scene(size), Image.fromarray(noise)):
        for quality in (20, 95):
            assert_same_image(encode(image, "HEIF", quality=quality))


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (53, 1), (2, 2), (17, 15), (63, 65)], ids=str)
def test_odd_sizes_are_cropped_by_libheif(size: tuple[int, int]) -> None:
    data = encode(scene(size), "HEIF")
    assert by_ffmpeg(data) is None
    assert isinstance(outcome(data), Decoded)


@pytest.mark.parametrize("size", [(150, 110), (128, 128), (65, 64), (1000, 66)], ids=str)
def test_grids_are_those_of_libheif(size: tuple[int, int]) -> None:
    image = NOISE.resize(size)
    assert_same_image(grid(image).build())


@pytest.mark.parametrize(
    "turns",
    [
        *([(b"irot", angle)] for angle in range(4)),
        *([(b"imir", axis)] for axis in range(2)),
        [(b"irot", 1), (b"imir", 0)],
        [(b"imir", 0), (b"irot", 1)],
        [(b"irot", 3), (b"imir", 1)],
        [(b"imir", 1), (b"irot", 3)],
    ],
    ids=str,
)
def test_images_are_turned_as_libheif_turns_them(turns: list[tuple[bytes, int]]) -> None:
    properties = [box(kind, bytes((value,))) for kind, value in turns]
    assert_same_image(with_properties(SINGLE, 1, *properties).build())
    assert_same_image(with_properties(GRID, 1, *properties).build())


def test_profiles_and_metadata_are_those_of_libheif() -> None:
    data = encode(scene((96, 64)), "HEIF", icc_profile=b"broken", exif=exif_block(6))
    assert_same_image(data)
    assert_judged_alike(data)


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("full_range", [0, 1])
def test_colours_are_converted_only_as_cameras_code_them(matrix: int, full_range: int) -> None:
    data = encode(NOISE, "HEIF", matrix_coefficients=matrix, full_range_flag=full_range)
    if matrix in (5, 6) and full_range:
        assert_same_image(data)
    else:
        assert by_ffmpeg(data) is None


# Left to libheif ----------------------------------------------------------------------------------


def translucent() -> Image.Image:
    image = NOISE.copy()
    image.putalpha(Image.linear_gradient("L").resize(NOISE.size))
    return image


def ten_bits() -> bytes:
    image = pillow_heif.from_bytes("RGB;16", (64, 64), bytes(64 * 64 * 6))
    buffer = io.BytesIO()
    image.save(buffer, save_to_12bit=False, quality=90)
    return buffer.getvalue()


def two_images() -> bytes:
    return encode(scene((64, 64)), "HEIF", save_all=True, append_images=[scene((64, 64), 1)])


def colours(matrix: int, full_range: int) -> bytes:
    return box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, matrix, full_range << 7))


def overlay() -> Heic:
    canvas = struct.pack(">BB4H2H2h", 0, 0, 0, 0, 0, 0xFFFF, 64, 128, 0, 0)
    shown = Item(50, b"iovl", canvas, (full_box(b"ispe", 0, struct.pack(">II", 64, 128)),))
    return Heic((*SINGLE.items, shown), ((b"dimg", 50, (1,)),), primary=50)


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def of_another_size(heic: Heic, number: int) -> Heic:
    (item,) = [item for item in heic.items if item.number == number]
    larger = full_box(b"ispe", 0, struct.pack(">II", 128, 128))
    kept = [each for each in item.properties if each[4:8] != b"ispe"]
    return with_item(heic, number, properties=(larger, *kept))


UNUSUAL: dict[str, Callable[[], bytes]] = {
    "grey": lambda: encode(NOISE.convert("L"), "HEIF"),
    "4:2:2": lambda: encode(NOISE, "HEIF", chroma="422"),
    "4:4:4": lambda: encode(NOISE, "HEIF", chroma="444"),
    "10 bits": ten_bits,
    "alpha": lambda: encode(translucent(), "HEIF"),
    "grid with alpha": lambda: with_alpha(
        GRID, grid(Image.linear_gradient("L").resize(NOISE.size), first=100)
    ).build(),
    "an overlay": lambda: overlay().build(),
    "shown as it is": lambda: replace(
        GRID,
        items=(Item(50, b"iden", b"", GRID.items[0].properties), *GRID.items),
        references=(*GRID.references, (b"dimg", 50, (1,))),
        primary=50,
        unlisted=frozenset({50}),
    ).build(),
    "clean aperture": lambda: with_properties(
        SINGLE, 1, box(b"clap", struct.pack(">8I", 32, 1, 64, 1, 0, 1, 0, 1))
    ).build(),
    "an unknown property": lambda: with_properties(SINGLE, 1, box(b"abcd", b"1234")).build(),
    "a turned tile": lambda: with_properties(GRID, 3, box(b"irot", b"\x02")).build(),
    "other colours stated": lambda: with_item(
        SINGLE, 1, properties=(colours(1, 0), *SINGLE.items[0].properties)
    ).build(),
    "other colours of a tile": lambda: with_item(
        GRID, 4, properties=(colours(1, 1), *GRID.items[3].properties)
    ).build(),
    "another size stated": lambda: of_another_size(SINGLE, 1).build(),
    "a tile of another size": lambda: of_another_size(GRID, 5).build(),
    "a list of items that is longer than it says": lambda: replaced(
        GRID.build(), b"iinf\x00\x00\x00\x00\x00\x07", b"iinf\x00\x00\x00\x00\x00\x03"
    ),
    "a depth that is not the image's": lambda: with_properties(
        SINGLE, 1, full_box(b"pixi", 0, b"\x03\x0a\x0a\x0a")
    ).build(),
    "a picture of a higher layer": lambda: replaced(
        SINGLE.build(), b"\x28\x01\xaf", b"\x28\x02\xaf"
    ),
    "parameter sets of a higher layer": lambda: replaced(
        SINGLE.build(), b"\x40\x01\x0c", b"\x40\x02\x0c"
    ),
    "a configuration of an unknown version": lambda: replaced(
        SINGLE.build(), b"hvcC\x01", b"hvcC\x07"
    ),
    "a tile too few": lambda: replace(GRID, references=((b"dimg", 1, (2, 3, 4, 5, 6)),)).build(),
}


@pytest.mark.parametrize("file", UNUSUAL.values(), ids=UNUSUAL)
def test_anything_unusual_is_left_to_libheif(file: Callable[[], bytes]) -> None:
    data = file()
    try:
        opened = pillow_heif.HeifImageFile(io.BytesIO(data))
    except Exception:  # libheif refuses it
        opened = None
    assert opened is None or hevc.decode(data, opened) is None
    assert_judged_alike(data)


def test_files_of_several_images_are_left_to_libheif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hevc, "decode", None)  # whoever calls it fails
    scored = outcome(two_images())
    assert isinstance(scored, Decoded)
    assert scored.facts.frames == 2


# Broken files -------------------------------------------------------------------------------------

FILES = {"single": SINGLE.build(), "grid": GRID.build()}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_cut_anywhere_is_judged_as_by_libheif(data: bytes) -> None:
    for length in range(0, len(data), 1 if len(data) < 4000 else 37):
        assert_judged_alike(data[:length], length)


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_damaged_files_are_judged_as_by_libheif(data: bytes) -> None:
    rng = np.random.default_rng(5)
    for number in range(250):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), int(rng.integers(1, 4))):
            damaged[at] ^= 1 << int(rng.integers(8))
        assert_judged_alike(bytes(damaged), number)


def test_missing_parts_do_not_show_what_was_decoded_before() -> None:
    """A tile of which a half is missing gives the same pixels after whatever other image."""
    (tile,) = [item for item in GRID.items if item.number == 3]
    damaged = bytearray(tile.data)
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    data = with_item(GRID, 3, data=bytes(damaged)).build()
    seen: set[Any] = set()
    for before in (NOISE, scene((64, 64)), scene((640, 480), 3)):
        by_ffmpeg(encode(before, "HEIF"))
        image = by_ffmpeg(data)
        seen.add(image and image.tobytes())
    assert len(seen) == 1


def test_noise_of_damaged_data_is_left_to_libheif() -> None:
    """Two decoders make two kinds of noise of the same damaged data, and call neither an error."""
    image = coded(scene((640, 480)), 1)
    rng = np.random.default_rng(3)
    decoded = taken = 0
    for _ in range(25):
        damaged = bytearray(image.data)
        damaged[int(rng.integers(len(damaged) // 8, len(damaged) // 2))] ^= 1
        data = Heic((replace(image, data=bytes(damaged)),)).build()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hevc, "_has_impossible_colours", lambda frame: False)
            unchecked = by_ffmpeg(data)
        if unchecked and not np.array_equal(np.asarray(unchecked), np.asarray(by_libheif(data))):
            decoded += 1
            taken += by_ffmpeg(data) is not None
    assert decoded >= 15
    assert taken <= 1


@pytest.mark.parametrize("colour", ["black", "white", "red", "lime", "blue", "yellow", "cyan"])
def test_no_colour_passes_for_damage(colour: str) -> None:
    noise = NOISE.resize((64, 64)).point(lambda level: 255 * (level > 127))
    for image in (Image.new("RGB", (64, 64), colour), noise):
        assert_same_image(Heic((coded(image, 1),)).build())


# What may be missing ------------------------------------------------------------------------------


def test_without_pyav_libheif_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    prepare()
    assert hevc.ffmpeg() is None
    scored = outcome(FILES["grid"])
    assert isinstance(scored, Decoded)


def test_where_memory_is_short_libheif_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(hevc.np, "empty", no_memory)
    assert by_ffmpeg(FILES["grid"]) is None


def test_a_picture_larger_than_stated_is_not_decoded() -> None:
    """FFmpeg refuses it before it allocates memory for it."""
    large = coded(scene((1024, 1024)), 1)
    stated = full_box(b"ispe", 0, struct.pack(">II", 64, 64))
    kept = [each for each in large.properties if each[4:8] != b"ispe"]
    tile = hevc._Tile(next(each[8:] for each in kept if each[4:8] == b"hvcC"), large.data, (64, 64))
    with pytest.raises(hevc._UnusualError):
        hevc._frame(tile)
    assert len(hevc._frame(replace(tile, size=(1024, 1024))).planes) == 3
    data = Heic((replace(large, properties=(stated, *kept)),)).build()
    assert_judged_alike(data)
