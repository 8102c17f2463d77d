"""Parts of an image: a file may be scored in several frames, and each in several parts.

Each part is one input of the models. The scores of an image are the highest of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FrameChoice = Literal["first", "auto", "all"]
ViewChoice = Literal["auto", "1", "3", "tiles"]
EmbeddedChoice = Literal["warn", "score"]

MOST_PARTS = 48
"""Parts of one file at the most: what a decoder's output memory has room for."""

MOST_FRAMES_AUTO = 16
"""Frames of an animation that are scored, unless another number is asked for."""

MOST_FRAMES = MOST_PARTS
"""Frames of one file that are scored however many are asked for."""

_LAST_MILLISECOND = 1 << 40


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What of a file is scored.

    frames is how many frames of an animation: the first, a choice of MOST_FRAMES_AUTO, all (up to
    MOST_FRAMES), or a choice of so many. views is how much of each frame: `1` is what the models
    are made to see; `3` adds the whole picture and its two ends, `tiles` a grid; `auto` adds what a
    picture of this shape needs. formats are accepted beside those that always are:
    names of `moderate.decode.sniff.OPTIONAL`. seen_by has, for
    each category that is scored, the places in the specs of the models that feed it; empty where
    each spec is to see the whole picture by itself. embedded_scored are the kinds of embedded
    content that get rows of their own, so that the file's row does not warn of them. pdq has the
    perceptual hash of the first frame computed, too.
    """

    frames: FrameChoice | int = "auto"
    views: ViewChoice = "auto"
    formats: tuple[str, ...] = ()
    seen_by: tuple[tuple[int, ...], ...] = ()
    embedded_scored: tuple[str, ...] = ()
    pdq: bool = False

    @property
    def most_frames(self) -> int:
        """How many frames are scored at the most."""
        if self.frames == "first":
            return 1
        if self.frames == "auto":
            return MOST_FRAMES_AUTO
        return MOST_FRAMES if self.frames == "all" else min(self.frames, MOST_FRAMES)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DecodeOptions:
        """The inverse of `dataclasses.asdict`, after a way through JSON."""
        seen_by = tuple(map(tuple, values["seen_by"]))
        return cls(
            values["frames"],
            values["views"],
            tuple(values["formats"]),
            seen_by,
            tuple(values["embedded_scored"]),
            values["pdq"],
        )


DEFAULT_OPTIONS = DecodeOptions()


def frame_choice(value: object) -> FrameChoice | int:
    """A choice of frames, checked. Raises ValueError, which says what can be chosen."""
    if value == "first" or value == "auto" or value == "all":
        return value
    if type(value) is int and 1 <= value <= MOST_FRAMES:
        return value
    raise ValueError(f"use first, auto, all or 1 to {MOST_FRAMES}")


@dataclass(frozen=True, slots=True)
class Part:
    """What one input of the models shows.

    frame counts from 0. milliseconds is when the frame is shown, None where pictures of a file have
    no time. box is (left, top, right, bottom) in per cent of the upright frame, None for what the
    models are made to see.
    """

    frame: int = 0
    milliseconds: int | None = None
    box: tuple[int, int, int, int] | None = None

    @property
    def place(self) -> str:
        """How reasons name it: `frame 7, 0.4 s`; empty for the only frame as the models see it.

        The first frame of several has its time, so that it is named, too.
        """
        words = []
        if self.milliseconds is not None:
            words.append(f"frame {self.frame + 1}, {self.milliseconds / 1000:.1f} s")
        elif self.frame:
            words.append(f"picture {self.frame + 1}")
        if self.box == (0, 0, 100, 100):
            words.append("the whole picture")
        elif self.box:
            left, top, right, bottom = self.box
            words.append(f"{left} to {right} % across and {top} to {bottom} % down")
        return ", ".join(words)


WHOLE = (Part(),)
"""The parts of a file of one frame that is scored as the models are made to see it."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at one frame gives: for each part its box (see `Part`) and its pixels by spec.

    The first part is what the models are made to see. unseen is the share of the frame, 0.0 to 1.0,
    outside of all parts, or shown by none well enough. wanted_scale is the scale of the full size
    at which the parts would have enough pixels; 0.0 where they do.
    """

    boxes: Sequence[tuple[int, int, int, int] | None]
    pixels: Sequence[tuple[Any, ...]] = field(repr=False)
    unseen: float = 0.0
    wanted_scale: float = 0.0


def checked_parts(values: Any) -> tuple[Part, ...]:
    """The parts that a decoder reports; raises an error of any kind for what no honest one does."""
    if not 1 <= len(values) <= MOST_PARTS:
        raise ValueError("no decoder gives so many parts")
    return tuple(_checked_part(*value) for value in values)


def _checked_part(frame: Any, milliseconds: Any, box: Any) -> Part:
    numbers = [(frame, 1 << 31), *((side, 100) for side in box or ())]
    if milliseconds is not None:
        numbers.append((milliseconds, _LAST_MILLISECOND))
    if not all(type(number) is int and 0 <= number <= most for number, most in numbers):
        raise ValueError("a part has a number that makes no sense")
    if box is not None and len(box) != 4:
        raise ValueError("a box has four sides")
    return Part(frame, milliseconds, None if box is None else (box[0], box[1], box[2], box[3]))
