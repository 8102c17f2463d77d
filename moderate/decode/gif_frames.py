"""The frames of a GIF, drawn as browsers draw them.

Pillow decodes each frame as a GIF of its own. It cannot draw the animation: it keeps a disposal for
later frames that state none, and shows the background colour, which browsers ignore. Source: the
GIF89a specification; where browsers differ from it, what Chromium shows.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import GifImagePlugin, Image

from moderate.decode.canvas import Budget, Canvas, Disposal, Shown, shown_for
from moderate.decode.containers import GIF_BLOCKS_WALKED, colour_table_bytes

_TRAILER, _DESCRIPTOR, _EXTENSION, _GRAPHIC_CONTROL = 0x3B, 0x2C, 0x21, 0xF9
# Disposal 4 is not in the specification; some programs write it for 3. Others keep the frame.
_DISPOSALS: dict[int, Disposal] = {2: "clear", 3: "restore", 4: "restore"}


@dataclass(frozen=True, slots=True)
class GifFrame:
    """One frame as the file states it: its place on the canvas, and where its data is.

    transparent is an index of the palette. start and end enclose the image data in the file.
    """

    left: int
    top: int
    width: int
    height: int
    disposal: Disposal
    transparent: int | None
    milliseconds: int
    flags: int
    palette: bytes
    start: int
    end: int


class GifFrames:
    """The frames of a GIF after the first."""

    timed = True

    def __init__(self, data: bytes, size: tuple[int, int]) -> None:
        """size is (width, height) of the canvas, in which the first frame fits."""
        self._data = data
        self._size = size

    def walk(self, budget: Budget) -> Iterator[Shown | None]:
        """See `Source`."""
        canvas = Canvas(self._size)
        area = self._size[0] * self._size[1]
        time = 0
        for index, frame in enumerate(gif_frames(self._data)):
            if frame is None or not budget.allows(area + frame.width * frame.height):
                yield None
                return
            if frame.width and frame.height:
                try:
                    image = _decoded(self._data, frame)
                except Exception:  # noqa: BLE001 - Pillow raises almost any class
                    yield None
                else:
                    canvas.draw(image, frame.left, frame.top, frame.disposal, blend=True)
            else:
                canvas.dispose()
            if index:
                yield Shown(index, time, canvas.image)
            time += frame.milliseconds


def with_surroundings(image: Image.Image, data: bytes) -> Image.Image:
    """The first frame of a GIF, as Pillow loads it, on the transparent canvas of a browser.

    The same image where the frame fills its canvas.
    """
    frame = next(gif_frames(data), None)
    if frame is None or (frame.width, frame.height) == image.size:
        return image
    if "transparency" in image.info:  # Pillow has filled the canvas with it
        return image
    canvas = Canvas(image.size)
    right, bottom = frame.left + frame.width, frame.top + frame.height
    cut_out = image.crop((frame.left, frame.top, right, bottom)).convert("RGBA")
    canvas.draw(cut_out, frame.left, frame.top, "keep", blend=False)
    return canvas.image


def gif_frames(data: bytes) -> Iterator[GifFrame | None]:
    """Each frame of a GIF that `read_gif` accepts; None, as the last, where it has too many blocks.

    Raises IndexError or struct.error where the GIF breaks off.
    """
    palette = data[13 : 13 + colour_table_bytes(data[10])]
    position = 13 + len(palette)
    control = bytes(4)  # flags, delay, transparent index: of the next frame only
    left_to_walk = GIF_BLOCKS_WALKED
    while True:
        block = data[position]
        if block == _DESCRIPTOR:
            left, top, width, height, flags = struct.unpack_from("<4HB", data, position + 1)
            own_palette = data[position + 10 : position + 10 + colour_table_bytes(flags)]
            start = position + 10 + len(own_palette)
            chain = start + 1
        elif block == _EXTENSION:
            if data[position + 1] == _GRAPHIC_CONTROL and data[position + 2] >= 4:
                control = data[position + 3 : position + 7]
            chain = position + 2
        else:  # the trailer, or invalid data, where browsers stop
            return
        position = chain
        while length := data[position]:
            position += 1 + length
            left_to_walk -= 1
            if left_to_walk < 0:
                yield None
                return
        position += 1
        left_to_walk -= 1
        if block == _DESCRIPTOR:
            yield GifFrame(
                left=left,
                top=top,
                width=width,
                height=height,
                disposal=_DISPOSALS.get(control[0] >> 2 & 7, "keep"),
                transparent=control[3] if control[0] & 1 else None,
                milliseconds=shown_for(10 * int.from_bytes(control[1:3], "little")),
                flags=flags,
                palette=own_palette or palette,
                start=start,
                end=position,
            )
            control = bytes(4)


def _decoded(data: bytes, frame: GifFrame) -> Image.Image:
    """A frame by itself, RGBA. Raises what Pillow raises."""
    palette_bits = (len(frame.palette) // 3).bit_length() - 2
    has_palette = len(frame.palette) > 0
    screen = (0x80 | palette_bits) if has_palette else 0
    control = b""
    if frame.transparent is not None:
        control = bytes((_EXTENSION, _GRAPHIC_CONTROL, 4, 1, 0, 0, frame.transparent, 0))
    alone = b"".join(
        (
            b"GIF89a",
            struct.pack("<HHBBB", frame.width, frame.height, screen, 0, 0),
            frame.palette,
            control,
            struct.pack("<B4HB", _DESCRIPTOR, 0, 0, frame.width, frame.height, frame.flags & 0x40),
            data[frame.start : frame.end],
            bytes((_TRAILER,)),
        )
    )
    with GifImagePlugin.GifImageFile(io.BytesIO(alone)) as image:
        return image.convert("RGBA")
