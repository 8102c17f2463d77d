"""AVIF: the limits and checks of all formats, and the image that browsers show."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import Any

import pytest
from PIL import AvifImagePlugin, Image

from moderate.decode.avif import read_avif
from moderate.decode.containers import MAX_FRAMES_COUNTED
from moderate.decode.image import Decoded, Undecoded, prepare
from moderate.decode.parts import DecodeOptions
from moderate.types import ErrorCode, Limits, Warn
from tests.support.decoding import assert_shows, code, outcome
from tests.support.heics import (
    Heic,
    Item,
    box,
    children,
    cut_points,
    full_box,
    grid_item,
    sequence,
    with_alpha,
    with_item,
)
from tests.support.pictures import encode, exif_block, scene

IMAGE = scene((150, 110))
FAST: dict[str, Any] = {"quality": 90, "speed": 10}


def coded(image: Image.Image, number: int, **options: Any) -> Item:
    """A coded item of one image: what Pillow wrote, taken out of its file."""
    file = dict(children(encode(image, "AVIF", **{**FAST, **options})))
    meta = dict(children(file[b"meta"][4:]))
    properties = children(dict(children(meta[b"iprp"]))[b"ipco"])
    wanted = tuple(box(k, v) for k, v in properties if k in {b"ispe", b"av1C", b"pixi", b"colr"})
    return Item(number, b"av01", file[b"mdat"], wanted)


def avif(*items: Item, **changes: Any) -> Heic:
    return Heic(items, **{"brand": b"avif", **changes})


def grid(image: Image.Image, first: int = 1, **options: Any) -> Heic:
    """An image as a grid of 2 x 1 tiles of 80 x 110 pixels. Item `first` is the grid."""
    tiles = []
    for x in (0, 80):
        tile = image.crop((x, 0, x + 80, image.height))
        tiles.append(coded(tile, first + 1 + len(tiles), **options))
    whole = grid_item(first, image.size, 2, 1)
    whole = replace(whole, properties=(*whole.properties, *tiles[0].properties[1:]))
    numbers = tuple(item.number for item in tiles)
    return avif(whole, *tiles, references=((b"dimg", first, numbers),), primary=first)


ALPHA = Image.linear_gradient("L").resize(IMAGE.size)
SINGLE = avif(coded(IMAGE, 1))
GRID = grid(IMAGE)
ALPHA_GRID = with_alpha(GRID, grid(ALPHA, first=100))
SEQUENCE = encode(
    IMAGE,
    "AVIF",
    **FAST,
    save_all=True,
    append_images=[scene(IMAGE.size, seed=seed) for seed in (1, 2)],
    duration=50,
)


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def assert_whole(data: bytes, image: Image.Image = IMAGE) -> Decoded:
    return assert_shows(data, image, mean=2.5)


# What is shown ------------------------------------------------------------------------------------


def test_one_thread_decodes() -> None:
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1


@pytest.mark.parametrize("subsampling", ["4:0:0", "4:2:0", "4:2:2", "4:4:4"])
def test_all_kinds_of_chroma(subsampling: str) -> None:
    image = IMAGE.convert("L").convert("RGB") if subsampling == "4:0:0" else IMAGE
    assert_whole(encode(image, "AVIF", **FAST, subsampling=subsampling), image)


def test_alpha_is_on_white_and_an_ambiguous_one_is_said() -> None:
    image = IMAGE.copy()
    image.putalpha(ALPHA)
    scored = assert_whole(encode(image, "AVIF", **FAST), image)
    assert Warn.ALPHA_AMBIGUOUS in scored.facts.warnings


def test_grids_with_and_without_alpha() -> None:
    assert_whole(GRID.build())
    image = IMAGE.copy()
    image.putalpha(ALPHA)
    assert_whole(ALPHA_GRID.build(), image)


def with_exif(data: bytes) -> Heic:
    """The image with a block of EXIF behind it, which is no reason for the container to turn it."""
    item = coded(IMAGE, 1)
    return avif(item, Item(2, b"Exif", bytes(4) + data), references=((b"cdsc", 2, (1,)),))


def test_exif_turns_nothing_and_a_broken_one_costs_nothing() -> None:
    """As in browsers. The container has its own ways to turn an image."""
    for block in (exif_block(6)[6:], b"\xff" * 40, b"II*\x00\xff\xff\xff\xff", b""):
        scored = assert_whole(with_exif(block).build())
        assert (scored.facts.width, scored.facts.height) == IMAGE.size
        assert not set(scored.facts.warnings) - {Warn.SMALL_IMAGE}


def with_aperture(width: int, height: int, left: int, top: int) -> bytes:
    """The image with a clean aperture whose offsets are in halves of a pixel from the centre."""
    numbers = (width, 1, height, 1, left, 2, top, 2)
    item = coded(IMAGE, 1)
    aperture = box(b"clap", struct.pack(">IIIIiIiI", *numbers))
    data = avif(replace(item, properties=(*item.properties, aperture))).build()
    at = data.index(b"ipma") + 15
    count = len(item.properties)
    return data[: at + count] + bytes((0x80 | data[at + count],)) + data[at + count + 1 :]


def test_an_aperture_is_followed_where_chromium_follows_it() -> None:
    corner = assert_whole(with_aperture(100, 60, -50, -50), IMAGE.crop((0, 0, 100, 60)))
    assert (corner.facts.width, corner.facts.height) == (100, 60)
    for elsewhere in ((100, 60, 0, 0), (100, 60, 50, 50), (1000, 60, 0, 0), (0, 60, -150, -50)):
        scored = assert_whole(with_aperture(*elsewhere))
        assert (scored.facts.width, scored.facts.height) == IMAGE.size


# Limits -------------------------------------------------------------------------------------------


def test_a_claimed_size_is_refused_before_decoding() -> None:
    ispe = full_box(b"ispe", 0, struct.pack(">II", 30_000, 30_000))
    item = coded(IMAGE, 1)
    data = avif(replace(item, properties=(ispe, *item.properties[1:]))).build()
    assert code(data) is ErrorCode.TOO_MANY_PIXELS
    refused = outcome(data, Limits(max_pixels=10**9))
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.TOO_MANY_PIXELS
    assert "libavif" in refused.message


def test_the_size_in_the_image_data_counts_too() -> None:
    """libavif decodes it in full and makes it as small as the header says."""
    large = coded(Image.new("RGB", (640, 480)), 1)
    ispe = full_box(b"ispe", 0, struct.pack(">II", 16, 16))
    data = avif(replace(large, properties=(ispe, *large.properties[1:]))).build()
    assert read_avif(data).size == (640, 480)
    refused = outcome(data, Limits(max_pixels=100_000))
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.TOO_MANY_PIXELS


def test_what_is_said_of_an_avif_names_avif() -> None:
    for data in (GRID.build()[:-1], with_item(GRID, 2, data=bytes(99)).build()):
        refused = outcome(data)
        assert isinstance(refused, Undecoded)
        assert refused.message.startswith("AVIF: ")
        assert "HEIC" not in refused.message


# What is missing ----------------------------------------------------------------------------------


FILES = {
    "single": SINGLE.build(),
    "by Pillow": encode(IMAGE, "AVIF", **FAST),
    "grid": GRID.build(),
    "grid with alpha": ALPHA_GRID.build(),
    "three extents": replace(GRID, pieces=3).build(),
    "sequence": SEQUENCE,
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_cut_anywhere_is_an_error(data: bytes) -> None:
    assert isinstance(outcome(data), Decoded)
    for length in cut_points(data, dense=400, stride=29):
        assert isinstance(outcome(data[:length]), Undecoded), f"{length} of {len(data)} bytes"


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_data_outside_of_the_file_is_noticed_without_the_box_around_it(data: bytes) -> None:
    at = data.index(b"mdat") - 4
    data = data[:at] + bytes(4) + data[at + 4 :]
    assert isinstance(outcome(data), Decoded)
    for missing in (1, 50, len(data) // 3):
        assert code(data[:-missing]) is ErrorCode.TRUNCATED


def test_a_tile_without_a_picture_is_no_tile() -> None:
    coding = GRID.items[2].data
    for data in (bytes(len(coding)), b"\xff" * 99, coding[:-1], b"\x12\x00", coding[:14]):
        assert code(with_item(GRID, 3, data=data).build()) is ErrorCode.CORRUPT_IMAGE, data[:9]
    size = len(ALPHA_GRID.items[-1].data)
    zeros = with_item(ALPHA_GRID, 102, data=bytes(size)).build()
    assert code(zeros) is ErrorCode.CORRUPT_IMAGE
    assert code(replace(GRID, unlisted=frozenset({3})).build()) is ErrorCode.CORRUPT_IMAGE


def test_bytes_behind_the_end_never_cost_the_image() -> None:
    for trailer in (b"\x00" * 3, b"\x00" * 500, b"SEFT"):
        assert_whole(SINGLE.build() + trailer)


# Sequences ----------------------------------------------------------------------------------------


def test_the_frames_of_a_sequence_are_said() -> None:
    scored = assert_whole(SEQUENCE)
    assert scored.facts.frames == 3
    assert Warn.ANIMATED in scored.facts.warnings
    first = outcome(SEQUENCE, options=DecodeOptions(frames="first"))
    assert isinstance(first, Decoded)
    assert first.facts.frames_scored == 1


def test_a_sequence_that_the_decoder_leaves_out_is_said() -> None:
    """With this brand, libavif and browsers show the still image; other viewers may not."""
    scored = assert_whole(SEQUENCE[:8] + b"avif" + SEQUENCE[12:])
    assert scored.facts.frames == 3
    assert Warn.PARTLY_SCORED in scored.facts.warnings


def test_a_still_image_that_the_decoder_leaves_out_is_said() -> None:
    """Browsers show the sequence; viewers without sequences show the still image."""
    another = coded(scene(IMAGE.size, seed=9), 1).data
    at = SEQUENCE.index(b"iinf") - 12  # the place of the still image: offset and length
    place = struct.pack(">II", len(SEQUENCE) + 8, len(another))
    data = SEQUENCE[:at] + place + SEQUENCE[at + 8 :] + box(b"mdat", another)
    scored = assert_whole(data)
    assert scored.facts.frames == 4
    assert read_avif(data).unreached
    assert not read_avif(SEQUENCE).unreached
    assert Warn.PARTLY_SCORED in scored.facts.warnings


def test_a_track_that_claims_endless_frames_costs_nothing() -> None:
    av1 = replace(coded(IMAGE, 1), properties=(box(b"hvcC", b""),))
    track = sequence(av1, 0xFFFFFFFF).replace(b"hvc1", b"av01")
    assert code(replace(SINGLE, behind=track).build()) is ErrorCode.CORRUPT_IMAGE
    track = sequence(av1, 900_000).replace(b"hvc1", b"av01")
    assert code(replace(SINGLE, behind=track).build()) in ErrorCode
    assert read_avif(SEQUENCE).frames < MAX_FRAMES_COUNTED


# Hostile ------------------------------------------------------------------------------------------


def test_no_bytes_make_it_raise() -> None:
    rng = random.Random(7)
    seeds = [*FILES.values(), with_exif(exif_block(3)[6:]).build(), with_aperture(9, 9, 0, 0)]
    for _ in range(600):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 10)):
            at = rng.randrange(len(data))
            action = rng.random()
            if action < 0.7:
                data[at] = rng.randrange(256)
            elif action < 0.85:
                del data[at : at + rng.randint(1, 64)]
            else:
                data[at:at] = rng.randbytes(rng.randint(1, 32))
            data = data or bytearray(b"\x00")
        result = outcome(bytes(data), Limits(max_pixels=1_000_000))
        assert isinstance(result, Decoded | Undecoded)
