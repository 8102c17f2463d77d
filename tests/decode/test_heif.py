"""HEIC: whatever the image is decoded from must be in the file, however it is stored there."""

from __future__ import annotations

import contextlib
import struct
import sys
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
from PIL import Image

from moderate.decode import heif
from moderate.decode import image as image_module
from moderate.decode.containers import MAX_FRAMES_COUNTED, Container, DecodeError
from moderate.decode.heif import read_heif
from moderate.decode.image import Decoded, Undecoded, prepare
from moderate.types import ErrorCode, Limits, Warn
from tests.support.decoding import assert_shows, code, outcome
from tests.support.heics import (
    Heic,
    Item,
    box,
    coded,
    cut_points,
    full_box,
    grid,
    grid_item,
    sequence,
    with_alpha,
    with_item,
)
from tests.support.pictures import scene

IMAGE = scene((150, 110))
GRID = grid(IMAGE)  # 3 x 2 tiles; item 1 is the grid, 2 to 7 are the tiles
ALPHA = Image.linear_gradient("L").resize(IMAGE.size)
ALPHA_GRID = with_alpha(GRID, grid(ALPHA, first=100))
SINGLE = Heic((coded(IMAGE, 1),))


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def assert_whole(data: bytes) -> Decoded:
    return assert_shows(data, IMAGE, highest=39)


def data_of(heic: Heic, number: int) -> bytes:
    (data,) = [item.data for item in heic.items if item.number == number]
    return data


STORED: dict[str, dict[str, Any]] = {
    "iloc 1": {},
    "iloc 2": {"iloc_version": 2},
    "base offsets": {"base_size": 4},
    "64 bits": {"base_size": 8, "offset_size": 8, "length_size": 8},
    "extent indices": {"index_size": 4},
    "64-bit extent indices": {"iloc_version": 2, "index_size": 8},
    "32-bit items": {"wide": True, "iloc_version": 2},
    "three extents": {"pieces": 3},
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_a_grid_is_scored_whole_and_refused_cut_however_it_is_stored(
    stored: dict[str, Any],
) -> None:
    data = replace(GRID, **stored).build()
    assert assert_whole(data).facts.frames == 1
    for length in cut_points(data, dense=64, stride=211):
        assert isinstance(outcome(data[:length]), Undecoded), f"{length} of {len(data)} bytes"


def test_a_single_image_by_the_oldest_table_is_scored_whole_and_refused_cut() -> None:
    data = replace(SINGLE, iloc_version=0).build()
    assert_whole(data)
    assert code(data[:-1]) is ErrorCode.TRUNCATED


@pytest.mark.parametrize("heic", [GRID, ALPHA_GRID], ids=["tiles", "alpha"])
@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_data_outside_of_the_file_is_noticed_without_the_box_around_it(
    heic: Heic, stored: dict[str, Any]
) -> None:
    """Where `mdat` has no length of its own, only `iloc` says how much there is."""
    whole = replace(heic, **stored).build()
    at = whole.index(b"mdat") - 4
    data = whole[:at] + bytes(4) + whole[at + 4 :]
    read_heif(data)
    assert isinstance(outcome(data), Decoded)
    for missing in (1, 50, len(data) // 2):
        assert code(data[:-missing]) is ErrorCode.TRUNCATED


def test_a_tile_that_is_all_zeros_is_no_tile() -> None:
    """As a download of several streams leaves it that did not end."""
    for number in (2, 4, 7):
        size = len(data_of(GRID, number))
        assert code(with_item(GRID, number, data=bytes(size)).build()) is ErrorCode.CORRUPT_IMAGE
    data = GRID.build()
    for share in (0.4, 0.7):
        length = int(len(data) * share)
        assert code(data[:length] + bytes(len(data) - length)) is ErrorCode.CORRUPT_IMAGE


def test_a_tile_of_other_data_is_no_tile() -> None:
    coding = data_of(GRID, 3)
    header_only = b"\x00\x00\x00\x04\x40\x01\x0c\x01"  # a parameter set, no picture
    for data in (b"", coding[:-1], coding + b"\x00", coding[4:], header_only, b"\xff" * 99):
        assert code(with_item(GRID, 3, data=data).build()) is ErrorCode.CORRUPT_IMAGE, data[:9]
    assert_whole(with_item(GRID, 3, data=header_only + coding).build())


def test_an_alpha_plane_of_zeros_is_no_alpha_plane() -> None:
    assert isinstance(outcome(ALPHA_GRID.build()), Decoded)
    size = len(data_of(ALPHA_GRID, 103))
    data = with_item(ALPHA_GRID, 103, data=bytes(size)).build()
    assert code(data) is ErrorCode.CORRUPT_IMAGE


def test_a_tile_without_a_place_or_of_another_kind_is_no_tile() -> None:
    assert code(replace(GRID, unlisted=frozenset({5})).build()) is ErrorCode.CORRUPT_IMAGE
    for kind in (b"jpeg", b"av01", b"unci", b"abcd"):
        assert code(with_item(GRID, 5, kind=kind).build()) is ErrorCode.CORRUPT_IMAGE
    nobody = (b"dimg", 1, (2, 3, 4, 5, 6, 77))
    assert code(replace(GRID, references=(nobody,)).build()) is ErrorCode.CORRUPT_IMAGE


def test_data_stored_in_another_item_is_refused() -> None:
    data = GRID.build()
    at = data.index(b"iloc") + 12  # the first item is the grid, in `idat`
    assert data[at : at + 4] == b"\x00\x01\x00\x01"
    assert code(data[: at + 3] + b"\x02" + data[at + 4 :]) is ErrorCode.CORRUPT_IMAGE


def test_tiles_of_tiles_and_images_shown_as_they_are_are_followed() -> None:
    shown = Item(50, b"iden", b"", GRID.items[0].properties)
    heic = replace(
        GRID,
        items=(shown, *GRID.items),
        references=(*GRID.references, (b"dimg", 50, (1,))),
        primary=50,
        unlisted=frozenset({50}),
    )
    assert_whole(heic.build())
    assert code(with_item(heic, 7, data=bytes(99)).build()) is ErrorCode.CORRUPT_IMAGE


def test_images_derived_from_themselves_come_to_an_end() -> None:
    for source, targets in ((1, (1,) * 6), (2, (1,)), (7, (7, 7))):
        references = ((b"dimg", source, targets), *GRID.references)
        assert isinstance(outcome(replace(GRID, references=references).build()), Undecoded)


def test_what_is_not_shown_never_costs_the_image() -> None:
    lost = 0x00FFFFFF  # bytes, far outside of the file
    exif = Item(200, b"Exif", b"")
    thumbnail = replace(coded(IMAGE.resize((64, 64)), 201), data=b"")
    depth_type = full_box(b"auxC", 0, b"urn:mpeg:hevc:2015:auxid:2\x00")
    depth = replace(thumbnail, number=202, properties=(*thumbnail.properties, depth_type))
    for item, kind in ((exif, b"cdsc"), (thumbnail, b"thmb"), (depth, b"auxl")):
        heic = replace(
            GRID,
            items=(*GRID.items, item),
            references=(*GRID.references, (kind, item.number, (1,))),
        )
        data = heic.build()
        at = data.index(struct.pack(">HHHHI", item.number, 0, 0, 1, len(data))) + 8
        data = data[: at + 4] + struct.pack(">I", lost) + data[at + 8 :]
        read_heif(data)
        if item is not exif:  # that one libheif does not forgive
            assert_whole(data)


@pytest.mark.parametrize("trailer", [b"\x00" * 100, b"SEFT", b"SEFH" * 30, b"\xff" * 64, b"ab"])
def test_what_programs_append_never_costs_the_image(trailer: bytes) -> None:
    read_heif(replace(GRID, behind=trailer).build())


def test_boxes_behind_the_image_must_be_whole() -> None:
    behind = box(b"free", bytes(200)) + box(b"mdat", b"a second image, say" * 20)
    data = replace(GRID, behind=behind).build()
    assert_whole(data)
    assert code(data[:-1]) is ErrorCode.TRUNCATED
    assert code(data[:-500]) is ErrorCode.TRUNCATED


def test_another_image_is_never_scored_in_place_of_the_primary_one() -> None:
    """pillow-heif shows the first image that opens; a phone shows the primary one."""
    harmless, hidden = coded(scene((64, 64), seed=1), 1), coded(IMAGE, 2, kind=b"av01")
    heic = Heic((harmless, hidden), primary=2)
    refused = outcome(heic.build())
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.CORRUPT_IMAGE
    assert "primary" in refused.message


# Sequences ----------------------------------------------------------------------------------------


def test_the_frames_of_a_sequence_are_said() -> None:
    track = sequence(GRID.items[1], 7)
    assert assert_whole(replace(GRID, brand=b"hevc", behind=track).build()).facts.frames == 7
    scored = assert_whole(replace(GRID, brand=b"msf1", behind=track).build())
    assert scored.facts.frames == 7
    assert Warn.ANIMATED in scored.facts.warnings
    # A video that a phone appended to a photograph is no sequence of it.
    assert read_heif(replace(GRID, behind=track).build()).frames == 1
    many = sequence(GRID.items[1], 0xFFFFFFFF)
    assert read_heif(replace(GRID, brand=b"hevc", behind=many).build()).frames == MAX_FRAMES_COUNTED


def test_a_sequence_without_an_image_has_nothing_to_score() -> None:
    data = replace(GRID, brand=b"msf1", behind=sequence(GRID.items[1], 7)).build()
    assert isinstance(outcome(data.replace(b"meta", b"free", 1)), Undecoded)


# Hostile ------------------------------------------------------------------------------------------


def heic_of(*boxes: bytes) -> bytes:
    primary = full_box(b"pitm", 0, b"\x00\x01")
    return box(b"ftyp", b"heic" + bytes(4) + b"heic") + full_box(
        b"meta", 0, primary + b"".join(boxes)
    )


def hostile(kind: str, many: int) -> bytes:
    """A header that lists very many of one thing, or says that it does."""
    if kind == "top-level boxes":
        return GRID.build() + box(b"free", b"") * many
    if kind == "boxes":
        return heic_of(box(b"free", b"") * many)
    if kind == "items":
        entry = full_box(b"infe", 2, b"\x00\x01\x00\x00hvc1")
        return heic_of(full_box(b"iinf", 0, b"\x00\x01" + entry * many))
    if kind == "references":
        return heic_of(full_box(b"iref", 0, box(b"dimg", b"\x00\x01\x00\x01\x00\x02") * many))
    if kind == "references of one item":
        entries = b"".join(struct.pack(">H", 2 + index % 50) for index in range(many))
        chains = b"".join(
            box(b"dimg", struct.pack(">HH", item, many) + entries) for item in range(1, 9)
        )
        return heic_of(full_box(b"iref", 0, chains))
    if kind == "places":
        start = b"\x44\x00" + struct.pack(">I", many)
        return heic_of(full_box(b"iloc", 2, start + bytes(16 * many)))
    if kind == "extents":
        item = b"\x00\x01\x00\x00" + struct.pack(">H", many) + bytes(8 * many)
        return heic_of(full_box(b"iloc", 0, b"\x44\x00\x00\x08" + item * 8))
    if kind == "extents that take no room":
        item = b"\x00\x01\x00\x00\xff\xff"
        return heic_of(full_box(b"iloc", 0, b"\x00\x00" + struct.pack(">H", many) + item * many))
    if kind == "properties":
        alpha = full_box(b"auxC", 0, b"urn:mpeg:hevc:2015:auxid:1\x00")
        of_items = struct.pack(">I", 0xFFFFFFFF) + b"\x00\x01\x03abc" * many
        boxes = box(b"ipco", alpha * many) + full_box(b"ipma", 0, of_items)
        auxiliary = full_box(b"iref", 0, box(b"auxl", b"\x00\x02\x00\x01\x00\x01"))
        return heic_of(box(b"iprp", boxes), auxiliary)
    if kind == "samples":
        table = full_box(b"stsz", 0, b"\xff" * 8)
        track = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", table))))
        return box(b"ftyp", b"hevc" + bytes(4) + b"hevc") + box(b"moov", track * many)
    assert kind == "tiles that share their data"
    numbers = range(2, 2 + many // 20)
    tiles = tuple(Item(number, b"hvc1", b"") for number in numbers)
    heic = Heic((grid_item(1, (640, 640), 8, 8), *tiles), ((b"dimg", 1, tuple(numbers)),))
    shared = b"\x00\x00\x00\x01\x26" * many
    data = replace(heic, behind=box(b"mdat", shared)).build()
    at, place = data.index(shared), 0
    for tile in tiles:
        place = data.index(struct.pack(">HHHH", tile.number, 0, 0, 1), place) + 8
        data = data[:place] + struct.pack(">II", at, len(shared)) + data[place + 8 :]
    return data


def lines_executed(data: bytes) -> int:
    """How many lines of the module checking a file takes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == heif.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(DecodeError):
            read_heif(data)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "kind",
    [
        "top-level boxes",
        "boxes",
        "items",
        "references",
        "references of one item",
        "places",
        "extents",
        "extents that take no room",
        "properties",
        "samples",
        "tiles that share their data",
    ],
)
def test_work_grows_with_the_file_and_not_faster(kind: str) -> None:
    small, large = hostile(kind, 1_000), hostile(kind, 8_000)
    assert isinstance(outcome(small), Undecoded | Decoded)
    assert lines_executed(small) > 20
    assert lines_executed(large) < 9 * lines_executed(small)
    assert lines_executed(large) < 10 * len(large)


def test_numbers_as_large_as_fields_hold_raise_nothing_else() -> None:
    for stored in ({}, {"base_size": 8, "offset_size": 8}, {"wide": True, "iloc_version": 2}):
        whole = replace(ALPHA_GRID, **stored).build()
        head = whole.index(b"mdat") - 4
        for at in range(12, head, 5):
            for value in (b"\xff" * 4, b"\x7f" + b"\xff" * 7, bytes(8), b"\x00\x00\x00\x01"):
                with contextlib.suppress(DecodeError):
                    read_heif(whole[:at] + value + whole[at + len(value) :])


# Limits of the library ----------------------------------------------------------------------------


def test_a_limit_of_libheif_is_not_called_memory() -> None:
    limits = Limits(max_pixels=5_000_000_000)
    large = replace(
        GRID.items[0],
        data=struct.pack(">4B2I", 0, 1, 1, 2, 60_000, 60_000),
        properties=(full_box(b"ispe", 0, struct.pack(">II", 60_000, 60_000)),),
    )
    refused = outcome(replace(GRID, items=(large, *GRID.items[1:])).build(), limits)
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.TOO_MANY_PIXELS
    assert "limit of libheif" in refused.message

    extra = tuple(Item(number, b"Exif", b"x") for number in range(1000, 3000))
    refused = outcome(replace(GRID, items=GRID.items + extra).build(), limits)
    assert isinstance(refused, Undecoded)
    assert refused.code is ErrorCode.CORRUPT_IMAGE
    assert "limit of libheif" in refused.message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (
            "Memory allocation error: Security limit exceeded: Memory usage of 4831840901 bytes "
            "for image data exceeds the security limit of 4294967296 bytes of total memory usage",
            ErrorCode.TOO_MANY_PIXELS,
        ),
        (
            "Memory allocation error: Security limit exceeded: Allocating 805306368 bytes exceeds "
            "the security limit of 536870912 bytes",
            ErrorCode.TOO_MANY_PIXELS,
        ),
        ("Memory allocation error: Image allocation size overflow", ErrorCode.TOO_MANY_PIXELS),
        (
            "Memory allocation error: Unspecified: 40000 items, which exceeds the security limit "
            "of 1000 items.",
            ErrorCode.CORRUPT_IMAGE,
        ),
        ("Memory allocation error: Unspecified", ErrorCode.OUT_OF_MEMORY),
    ],
)
def test_limits_of_libheif_are_known_by_all_their_wordings(
    message: str, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reaching the first two takes gigabytes.
    def refuse(_: bytes) -> Container:
        raise RuntimeError(message)

    monkeypatch.setitem(image_module._READERS, "heif", refuse)
    refused = outcome(GRID.build())
    assert isinstance(refused, Undecoded)
    assert refused.code is code
    assert ("limit of libheif" in refused.message) == (code is not ErrorCode.OUT_OF_MEMORY)
