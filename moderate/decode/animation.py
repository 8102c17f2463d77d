"""The frames of an animation, and the pictures of a file that holds several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from moderate.decode.containers import Container
from moderate.decode.parts import DecodeOptions
from moderate.types import Limits


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as viewers show it, upright RGB on white. index counts from 0.

    milliseconds is when it is first on display; None for pictures that have no time.
    """

    index: int
    milliseconds: int | None
    image: Image.Image
    alpha_ambiguous: bool = False


@dataclass(slots=True)
class OtherFrames:
    """The frames after the first that are to be scored. What is left out is known at the end."""

    first_milliseconds: int | None = None
    left_out: bool = False
    """Whether something is, or may be, on display that differs from all frames that were given."""

    def frames(self) -> Iterator[Frame]:
        """Each frame, once."""
        return iter(())


def other_frames(
    kind: str,
    data: bytes,
    container: Container,
    first: Image.Image,
    options: DecodeOptions,
    limits: Limits,
) -> OtherFrames:
    """The frames to score beside the first one, which was decoded from the same file."""
    return OtherFrames(left_out=container.frames > 1)
