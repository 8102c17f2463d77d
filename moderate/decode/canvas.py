"""What an animation's frames are drawn on, one over the other, as browsers do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

Disposal = Literal["keep", "clear", "restore"]
Box = tuple[int, int, int, int]

_SHORTEST = 10  # milliseconds; browsers show a frame of no longer duration for _USUAL
_USUAL = 100


def shown_for(milliseconds: float) -> int:
    """How long browsers show a frame with this duration, in milliseconds."""
    return round(milliseconds) if milliseconds > _SHORTEST else _USUAL


@dataclass(frozen=True, slots=True)
class Shown:
    """What is on display from a time on. The image is valid until the next is asked for.

    index counts from 0; milliseconds is None for pictures that have no time. turn is the EXIF
    orientation that the image has yet to be turned by.
    """

    index: int
    milliseconds: int | None
    image: Image.Image
    turn: int = 1


class Budget:
    """What one walk through the frames of a file may cost."""

    def __init__(self, frames: int, pixels: int, most_pixels: int) -> None:
        """most_pixels is the largest size of one frame."""
        self._frames = frames
        self._pixels = pixels
        self._most_pixels = most_pixels

    def allows(self, pixels: int) -> bool:
        """Whether a frame of so many pixels may be decoded, which is counted."""
        self._frames -= 1
        self._pixels -= pixels
        return self._frames >= 0 and self._pixels >= 0 and pixels <= self._most_pixels


class Source(Protocol):
    """The frames of a file after the first."""

    timed: bool
    """Whether the frames are shown one after the other, all in the same size."""

    def walk(self, budget: Budget) -> Iterator[Shown | None]:
        """What is on display after the first frame; None for what cannot be known.

        That is a frame that cannot be decoded, or all that the budget does not allow.
        """
        ...


class Canvas:
    """Starts transparent. Draws frames one after the other."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = Image.new("RGBA", size)
        self._before: tuple[Box, Image.Image] | None = None

    def draw(
        self, frame: Image.Image, left: int, top: int, disposal: Disposal, *, blend: bool
    ) -> None:
        """Draw an RGBA frame: over what is there, or with blend=False in its place.

        disposal says what happens to its area before the next is drawn. What is outside of the
        canvas is not drawn.
        """
        self.dispose()
        right = min(left + frame.width, self.image.width)
        bottom = min(top + frame.height, self.image.height)
        if right <= left or bottom <= top:
            return
        box = (left, top, right, bottom)
        frame = frame.crop((0, 0, right - left, bottom - top))
        if disposal == "clear":
            self._before = (box, Image.new("RGBA", frame.size))
        elif disposal == "restore":
            self._before = (box, self.image.crop(box))
        if blend:
            self.image.alpha_composite(frame, (left, top))
        else:
            self.image.paste(frame, (left, top))

    def dispose(self) -> None:
        """Do what the frame before asks for at its end."""
        if self._before:
            box, image = self._before
            self.image.paste(image, box[:2])
            self._before = None
