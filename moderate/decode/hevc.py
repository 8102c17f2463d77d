"""HEIC images by FFmpeg's HEVC decoder, which takes a third less time than that of libheif.

It comes with PyAV, the extra `video`. libheif opens every file, judges its header and says what the
image is. Only its pixels come from here, where the image is what cameras write: 8 bits, 4:2:0, no
transparency, in one piece or in a grid of tiles. Whatever is unusual about a file, or goes wrong,
is left to libheif.

Sources: ISO/IEC 23008-12 for grids, `irot` and `imir`; ISO/IEC 14496-12 for `colr`; ITU-T H.273 for
the numbers of colour matrices.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderate.decode.containers import DecodeError
from moderate.decode.heif import Box, Fields, Items, top_level_boxes

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_MOST_TILES = 1000  # as libheif: of a grid
_CODED_MARGIN = 64  # pixels; a coded picture is larger by less than the largest coding block
_FULL_RANGE = 2  # AVColorRange
_BT_601 = frozenset({5, 6})  # matrix_coefficients; both numbers mean the same
_DEPTHS = b"\x00\x00\x00\x00\x03\x08\x08\x08"  # `pixi`: three channels of 8 bits
_CONFIGURATION_BYTES = 23  # of `hvcC`, before its parameter sets
_PARAMETER_SETS = frozenset({32, 33, 34})  # nal_unit_type
_KEY_PICTURES = frozenset({19, 20})
_HINTS = frozenset({39, 40})
_TILE_PROPERTIES = frozenset({b"hvcC", b"ispe", b"colr", b"pixi"})
_IMAGE_PROPERTIES = _TILE_PROPERTIES | {b"irot", b"imir"}
_ROTATIONS = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
)
_MIRRORS = (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)
_GRID_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Tile:
    """A coded image: its configuration (`hvcC`), its data, and its stated (width, height)."""

    configuration: bytes
    data: bytes
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Coded:
    """What an image is decoded from: tiles by rows, of which each has `columns`, and the turns.

    size is its (width, height) before it is turned.
    """

    tiles: Sequence[_Tile]
    columns: int
    size: tuple[int, int]
    turns: Sequence[Image.Transpose]


class _UnusualError(Exception):
    """An image that is left to libheif."""


def load_ffmpeg() -> None:
    """Import FFmpeg's decoder, where it is installed.

    Call it before the sandbox, where nothing can be imported. The imports take as long as starting
    Python twice over, so that a process that sees no HEIC does without.
    """
    with contextlib.suppress(ImportError):
        import av  # noqa: F401


def ffmpeg() -> Any:
    """The module `av`; None where this process has not loaded it."""
    return sys.modules.get("av")


def decode(data: bytes, opened: Image.Image) -> Image.Image | None:
    """The pixels of an HEIC that libheif has opened, turned as libheif turns it; None to leave it.

    data is the whole file. The pixels are those of libheif to the bit, where the data is sound.
    """
    info = opened.info
    if ffmpeg() is None or (opened.mode, info.get("bit_depth"), info.get("chroma")) != (
        "RGB",
        8,
        420,
    ):
        return None
    try:
        coded = _coded(data)
        image = _assembled(coded)
    except (DecodeError, _UnusualError, MemoryError):
        return None
    for turn in coded.turns:
        image = image.transpose(turn)
    return image if image.size == opened.size else None


# The container -----------------------------------------------------------------------------------


def _coded(data: bytes) -> _Coded:
    """Raises _UnusualError, or DecodeError, for what is left to libheif."""
    metas = [box for box in top_level_boxes(data) if box.kind == b"meta"]
    _require(len(metas) == 1)
    items = Items(data, Box(b"meta", metas[0].start + 4, metas[0].end))
    primary = items.primary
    _require(primary is not None and items.all_listed)
    assert primary is not None
    sources = items.sources(primary)
    numbers = sources or [primary]
    _require(len(numbers) <= _MOST_TILES)
    _require(not any(items.has_alpha(item) for item in (primary, *numbers)))
    properties = items.properties_of({primary, *numbers})
    own = properties[primary]
    _require({box.kind for box in own} <= _IMAGE_PROPERTIES)
    size, columns = _size(data, own), 1
    if items.kind(primary) == b"grid":
        columns = _check_grid(items.data(primary), len(numbers), size)
    else:
        _require(items.kind(primary) == b"hvc1" and not sources)
    _check_colours(data, own)
    _require(all(_content(data, box) == _DEPTHS for box in own if box.kind == b"pixi"))
    tiles: list[_Tile] = []
    for item in numbers:
        boxes = properties[item]
        if item != primary:
            _require(items.kind(item) == b"hvc1" and not items.sources(item))
            _require({box.kind for box in boxes} <= _TILE_PROPERTIES)
            _check_colours(data, boxes)
        _require(all(_content(data, box) == _DEPTHS for box in boxes if box.kind == b"pixi"))
        configuration = _content(data, _only(boxes, b"hvcC"))
        _check_configuration(configuration)
        stored = items.data(item)
        _check_picture(stored)
        tiles.append(_Tile(configuration, stored, _size(data, boxes)))
    return _Coded(tiles, columns, size, _turns(data, own))


def _require(usual: bool) -> None:
    if not usual:
        raise _UnusualError


def _only(boxes: Sequence[Box], kind: bytes) -> Box:
    found = [box for box in boxes if box.kind == kind]
    _require(len(found) == 1)
    return found[0]


def _content(data: bytes, box: Box) -> bytes:
    return data[box.start : box.end]


def _size(data: bytes, boxes: Sequence[Box]) -> tuple[int, int]:
    fields = Fields(data, _only(boxes, b"ispe"))
    fields.number(4)
    size = fields.number(4), fields.number(4)
    _require(min(size) > 0)
    return size


def _check_grid(layout: bytes, tiles: int, size: tuple[int, int]) -> int:
    """Check a grid of 16-bit sides against its stated size; the number of its columns."""
    _require(len(layout) == _GRID_BYTES and layout[:2] == b"\x00\x00")
    rows, columns = layout[2] + 1, layout[3] + 1
    stated = int.from_bytes(layout[4:6], "big"), int.from_bytes(layout[6:8], "big")
    _require(rows * columns == tiles and stated == size)
    return columns


def _check_colours(data: bytes, boxes: Sequence[Box]) -> None:
    """Colours must be coded as cameras do: BT.601 at full range. Profiles do not matter here."""
    for box in boxes:
        if box.kind == b"colr":
            fields = Fields(data, box)
            kind = fields.number(4).to_bytes(4, "big")
            if kind == b"nclx":
                fields.number(4)  # primaries and transfer
                _require(fields.number(2) in _BT_601 and fields.number(1) >> 7 == 1)
            else:
                _require(kind in (b"prof", b"rICC"))


def _check_configuration(configuration: bytes) -> None:
    """It must say 4:2:0 and 8 bits, and hold one parameter set of each kind."""
    _require(len(configuration) > _CONFIGURATION_BYTES and configuration[0] == 1)
    chroma, luma_depth, chroma_depth = configuration[16:19]
    _require((chroma & 3, luma_depth & 7, chroma_depth & 7) == (1, 0, 0))
    _require(configuration[21] & 3 == 3)  # lengths of NAL units in 4 bytes
    position, kinds = _CONFIGURATION_BYTES, []
    for _ in range(configuration[22]):
        header, count = configuration[position : position + 3], 1
        _require(len(header) == 3 and header[1:] == count.to_bytes(2, "big"))
        length = int.from_bytes(configuration[position + 3 : position + 5], "big")
        unit = configuration[position + 5 : position + 5 + length]
        _require(len(unit) == length > 2 and _kind(unit) == header[0] & 0x3F)
        kinds.append(_kind(unit))
        position += 5 + length
    _require(position == len(configuration))
    _require(len(kinds) == len(_PARAMETER_SETS) and set(kinds) == _PARAMETER_SETS)


def _check_picture(stored: bytes) -> None:
    """It must be one key picture, beside hints that change nothing."""
    position, pictures = 0, 0
    while position < len(stored):
        length = int.from_bytes(stored[position : position + 4], "big")
        unit = stored[position + 4 : position + 7]
        _require(length > 2 and len(unit) == 3)
        kind = _kind(unit)
        _require(kind in _KEY_PICTURES | _HINTS)
        if kind in _KEY_PICTURES:
            pictures += unit[2] >> 7  # first_slice_segment_in_pic_flag
            _require(pictures == 1)
        position += 4 + length
    _require(pictures == 1 and position == len(stored))


def _kind(unit: bytes) -> int:
    """The nal_unit_type of a unit of the base layer (ITU-T H.265, 7.3.1.2)."""
    _require(unit[0] & 0x81 == 0 and unit[1] == 1)
    return unit[0] >> 1


def _turns(data: bytes, boxes: Sequence[Box]) -> list[Image.Transpose]:
    """What is done to the decoded image, in order."""
    turns: list[Image.Transpose | None] = []
    for box in boxes:
        if box.kind == b"irot":
            turns.append(_ROTATIONS[Fields(data, box).number(1) & 3])
        elif box.kind == b"imir":
            turns.append(_MIRRORS[Fields(data, box).number(1) & 1])
    _require(len(turns) <= 2)
    return [turn for turn in turns if turn is not None]


# The pixels --------------------------------------------------------------------------------------


def _assembled(coded: _Coded) -> Image.Image:
    """The image, not yet turned. Raises _UnusualError for what is left to libheif."""
    width, height = coded.size
    across, down = coded.tiles[0].size
    rows = len(coded.tiles) // coded.columns
    # Tiles that lie wholly outside, or leave something uncovered, are for libheif to judge.
    _require((coded.columns - 1) * across < width <= coded.columns * across)
    _require((rows - 1) * down < height <= rows * down)
    _require(all(tile.size == (across, down) for tile in coded.tiles))
    canvas = np.empty((3, rows * down, coded.columns * across), np.uint8)
    for number, tile in enumerate(coded.tiles):
        top, left = (number // coded.columns) * down, (number % coded.columns) * across
        _paint(_frame(tile), canvas[:, top : top + down, left : left + across])
    channels = [
        Image.frombuffer("L", coded.size, channel, "raw", "L", canvas.shape[2], 1)
        for channel in canvas
    ]
    return Image.merge("RGB", channels)


def _paint(frame: VideoFrame, canvas: NDArray[np.uint8]) -> None:
    """Turn a frame, 4:2:0 in BT.601 at full range, into RGB, to the bit as libheif does.

    canvas is 3 x H x W.
    """
    luma, blue, red = _planes(frame)
    cb, cr = blue.astype(np.int16), red.astype(np.int16)
    cb -= 128
    cr -= 128
    # (359 cr + 128) / 256, (-88 cb - 183 cr + 128) / 256 and (454 cb + 128) / 256, rounded down, as
    # libheif computes them. Whole multiples of cb and cr are taken out so that 16 bits are enough.
    differences = (
        cr + (103 * cr + 128 >> 8),
        (73 * cr - 88 * cb + 128 >> 8) - cr,
        cb + (198 * cb + 128 >> 8),
    )
    band = np.empty((canvas.shape[1] // 2, canvas.shape[2]), np.uint8)
    for channel, difference in zip(canvas, differences, strict=True):
        more, less = _doubled(difference), _doubled(-difference)
        room = 255 - more
        for parity in (0, 1):  # two rows share their colour
            # Bytes that are kept from overflowing beforehand take far less time than wider numbers,
            # and a band of its own less than rows that lie far apart.
            np.minimum(luma[parity::2], room, out=band)
            band += more
            np.maximum(band, less, out=band)
            band -= less
            channel[parity::2] = band


def _planes(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Luma, Cb and Cr of a frame, each H x W of its own."""
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]


def _doubled(values: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Each value up to 255 twice in its row; 0 for those below 0."""
    positive = np.maximum(values, 0).view(np.uint16)
    positive *= 0x0101
    return positive.view(np.uint8)


def _frame(tile: _Tile) -> VideoFrame:
    """The one picture of a coded image. Raises _UnusualError for what is left to libheif.

    Every tile has a decoder of its own, so that parts that are missing are the same whatever was
    decoded before: a decoder's memory is cleared when it is new, and used again later.
    """
    av = ffmpeg()
    width, height = (side + _CODED_MARGIN for side in tile.size)
    try:
        context = av.CodecContext.create("hevc", "r")
        context.extradata = tile.configuration
        context.thread_count, context.thread_type = 1, "NONE"
        # Errors are reported, not concealed; nothing larger than what is stated is allocated.
        context.options = {"err_detect": "explode", "max_pixels": str(width * height)}
        frames = [*context.decode(av.Packet(tile.data)), *context.decode(None)]
    except Exception:  # noqa: BLE001 - whatever it is, libheif decides
        raise _UnusualError from None
    _require(len(frames) == 1)
    frame: VideoFrame = frames[0]
    _require((frame.width, frame.height) == tile.size and not any(side % 2 for side in tile.size))
    _require(frame.format.name in {"yuv420p", "yuvj420p"} and not frame.is_corrupt)
    _require(frame.color_range == _FULL_RANGE and frame.colorspace in _BT_601)
    _require(not _has_impossible_colours(frame))
    return frame


def _has_impossible_colours(frame: VideoFrame) -> bool:
    """Whether both chroma samples are 0 or 255 at any place.

    From damaged data each decoder makes its own noise, and none reports an error. Nearly all such
    noise reaches these values. No picture does: where one chroma sample of an RGB colour is 0 or
    255, the other is at least 84 away from both (ITU-T T.871, 7).
    """
    _, blue, red = _planes(frame)
    # Adding 1 turns 255 and 0 into 0 and 1.
    return bool((((blue + np.uint8(1)) | (red + np.uint8(1))) < 2).any())
