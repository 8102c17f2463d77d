"""The frames of an animated PNG, drawn as browsers draw them.

Pillow decodes each frame as a PNG of its own, within the checks of every PNG. Source: the PNG
specification, third edition, 11.3.6 and 12 (acTL, fcTL, fdAT).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image, PngImagePlugin

from moderate.decode import pixels
from moderate.decode.canvas import Budget, Canvas, Disposal, Shown, shown_for
from moderate.decode.containers import Container, png_is_complete, read_png

_DISPOSALS: tuple[Disposal, ...] = ("keep", "clear", "restore")
_DELAY_PER_SECOND = 100  # where a file states 0


@dataclass(slots=True)
class PngFrame:
    """One frame as the file states it: its place on the canvas, and the pieces of its data."""

    left: int
    top: int
    width: int
    height: int
    disposal: Disposal
    blend: bool
    milliseconds: int
    pieces: list[memoryview] = field(default_factory=list, repr=False)


class PngFrames:
    """The frames of an animated PNG after the first, then its default image if it is not one.

    Viewers that do not know animations show the default image.
    """

    timed = True

    def __init__(self, data: bytes, container: Container, turn: int) -> None:
        """data is the whole file, container what `read_png` says of it, turn its orientation."""
        self._data = data
        self._container = container
        self._turn = turn

    def walk(self, budget: Budget) -> Iterator[Shown | None]:
        """See `Source`."""
        assert self._container.size is not None
        width, height = self._container.size
        canvas, time, index = Canvas((width, height)), 0, 0
        for frame in png_frames(self._data):
            if frame is None or not budget.allows(width * height + frame.width * frame.height):
                yield None
                return
            try:
                image = _decoded(self._container, frame)
            except Exception:  # noqa: BLE001 - Pillow raises almost any class
                yield None
            else:
                canvas.draw(image, frame.left, frame.top, frame.disposal, blend=frame.blend)
            if index:
                yield Shown(index, time, canvas.image, self._turn)
            time += frame.milliseconds
            index += 1
        if index < self._container.frames - self._container.default_apart:
            yield None  # it promises more
        if self._container.default_apart:
            if not budget.allows(width * height):
                yield None
                return
            with PngImagePlugin.PngImageFile(io.BytesIO(self._container.data)) as default:
                rgba = pixels.to_rgba(default, self._container.bit_depth)
            yield Shown(index, None, rgba, self._turn)


def first_of_animation(data: bytes, container: Container) -> Image.Image | None:
    """The animation's first frame on its canvas, RGBA; None where it cannot be decoded."""
    assert container.size is not None
    try:
        frame = next(png_frames(data))
        if frame is None or frame.width * frame.height > container.size[0] * container.size[1]:
            return None
        canvas = Canvas(container.size)
        canvas.draw(_decoded(container, frame), frame.left, frame.top, "keep", blend=False)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises almost any class
        return None
    return canvas.image


def png_frames(data: bytes) -> Iterator[PngFrame | None]:
    """Each frame of the animation in a PNG that `read_png` accepts; None for what makes no sense.

    The data of the default image belongs to the frame whose fcTL comes before it.
    """
    view = memoryview(data)
    frame: PngFrame | None = None
    position, kind = 8, b""
    while kind != b"IEND" and position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        content = view[position + 8 : position + 8 + length]
        position += 12 + length
        if kind == b"fcTL":
            if frame is not None:
                yield frame if frame.pieces else None
            frame = _read_control(content)
            if frame is None:
                yield None
                return
        elif kind == b"IDAT" and frame is not None:
            frame.pieces.append(content)
        elif kind == b"fdAT" and length >= 4:
            if frame is None:
                yield None
                return
            frame.pieces.append(content[4:])
    if frame is not None:
        yield frame if frame.pieces else None


def _read_control(content: memoryview) -> PngFrame | None:
    if len(content) < 26:
        return None
    _, width, height, left, top, delay, per_second, disposal, blend = struct.unpack_from(
        ">5I2H2B", content
    )
    if not width or not height or disposal >= len(_DISPOSALS):
        return None
    duration = 1000 * delay / (per_second or _DELAY_PER_SECOND)
    return PngFrame(left, top, width, height, _DISPOSALS[disposal], blend == 1, shown_for(duration))


def _decoded(container: Container, frame: PngFrame) -> Image.Image:
    """A frame by itself, RGBA. Raises what Pillow raises."""
    data = container.data
    head, position = data[16:29], 33
    shared = []  # the palette and transparency of all frames
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind != b"eXIf":
            shared.append(data[position : position + 12 + length])
        position += 12 + length
    alone = read_png(
        b"".join(
            (
                data[:8],
                _chunk(b"IHDR", struct.pack(">II", frame.width, frame.height) + head[8:]),
                *shared,
                _chunk(b"IDAT", b"".join(frame.pieces)),
                _chunk(b"IEND", b""),
            )
        )
    )
    with PngImagePlugin.PngImageFile(io.BytesIO(alone.data)) as image:
        image.load()
        if (alone.interlaced or pixels.last_row_is_zero(image)) and not png_is_complete(alone):
            raise EOFError("the frame holds fewer rows than it promises")
        return pixels.to_rgba(image, alone.bit_depth)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
