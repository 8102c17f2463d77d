"""The frames of an animation, and the pictures of a file that holds several, that are scored.

An animation is walked through twice: once to compare small copies of its frames, of which some are
chosen, and once more to the chosen ones. No more than one frame is held in full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from moderate.decode import pixels
from moderate.decode.canvas import Budget, Shown, Source
from moderate.decode.containers import Container
from moderate.decode.frame_choice import COVERED, SAME, choose, distance, small_copy
from moderate.decode.gif_frames import GifFrames, with_surroundings
from moderate.decode.parts import DecodeOptions
from moderate.decode.png_frames import PngFrames, first_of_animation
from moderate.decode.seek_frames import ListedPictures, SeekFrames
from moderate.types import Limits

MOST_WALKED = 500
"""The most frames of an animation that are compared."""

PIXELS_PER_SECOND = 6_400_000
"""Pixels, of frames and the canvas they are drawn on, that a walk may cost per second of the limit.

At 20 to 40 ns a pixel, two walks take a quarter of the limit or less.
"""

_CPU_SHARE = 0.25
"""Of the limit, for both walks: where decoding is slower than was measured."""

_MOST_COPIES = 8
"""A frame may take this share of the decoder's memory, because several copies are made of it."""

_UNTIMED = frozenset({"heif", "tiff", "ico"})
"""Formats whose further frames are pictures in their own right."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as viewers show it, upright RGB on white. index counts from 0.

    milliseconds is when it is first on display; None for pictures that have no time.
    """

    index: int
    milliseconds: int | None
    image: Image.Image
    alpha_ambiguous: bool = False


class OtherFrames:
    """The frames after the first that are to be scored. What is left out is known at the end."""

    def __init__(
        self,
        source: Source,
        first: Image.Image,
        counted: int,
        options: DecodeOptions,
        limits: Limits,
        profile: bytes | None = None,
    ) -> None:
        """first is the first frame, upright RGB; counted the number of frames up to a bound.

        profile is the ICC profile of frames that have none of their own.
        """
        self._source = source
        self._profile = profile
        self._first = small_copy(first)
        self._counted = counted
        self._options = options
        self._limits = limits
        self._cpu_end = time.process_time() + _CPU_SHARE * limits.decode_timeout
        self.first_milliseconds: int | None = 0 if source.timed else None
        self.left_out = False
        """Whether something on display may differ from all frames that were given."""

    def frames(self) -> Iterator[Frame]:
        """Each frame, once. Never raises: what cannot be decoded is left out."""
        if self._options.frames == "first":
            self.left_out = True
            return
        try:
            most = self._options.most_frames
            if not self._source.timed or self._counted <= most:
                yield from self._while_walking(most)
            else:
                yield from self._chosen(most)
        except Exception:  # noqa: BLE001 - the first frame is fine, and this is said of the others
            self.left_out = True

    @property
    def _same(self) -> float:
        return 0.0 if self._options.frames == "all" else SAME

    def _while_walking(self, most: int) -> Iterator[Frame]:
        """All frames that differ from those before, up to a number of them, in one walk."""
        scored = [self._first]
        for shown in self._walk():
            small = small_copy(shown.image, shown.turn)
            nearest = min(distance(small, other) for other in scored)
            if len(scored) < most and nearest > self._same:
                scored.append(small)
                yield _frame(shown)
            elif nearest > COVERED:
                self.left_out = True

    def _chosen(self, most: int) -> Iterator[Frame]:
        """The choice of `choose`, in two walks."""
        small, indices, times, apart = [self._first], [0], [0], []
        for shown in self._walk():
            if shown.milliseconds is None:
                apart.append(shown.index)
                continue
            small.append(small_copy(shown.image, shown.turn))
            indices.append(shown.index)
            times.append(shown.milliseconds)
        places, farthest = choose(small, times, max(1, most - len(apart)), self._same)
        self.left_out |= farthest > COVERED
        wanted = {indices[place] for place in places[1:]} | set(apart[: most - 1])
        if not wanted:
            return
        for shown in self._walk():
            if shown.index in wanted:
                wanted.remove(shown.index)
                yield _frame(shown)
            if not wanted:
                return
        self.left_out = True

    def _walk(self) -> Iterator[Shown]:
        """What can be shown, within the bounds on what that may cost."""
        budget = Budget(
            MOST_WALKED,
            int(PIXELS_PER_SECOND * self._limits.decode_timeout),
            min(self._limits.max_pixels, self._limits.max_decoder_bytes // (4 * _MOST_COPIES)),
        )
        for shown in self._source.walk(budget):
            if shown is None:
                self.left_out = True
            else:
                info = shown.image.info
                if profile := info.get("icc_profile") or self._profile:
                    info.setdefault(pixels.PROFILE, profile)
                yield shown
            if time.process_time() > self._cpu_end:
                self.left_out = True
                return


def other_frames(
    kind: str,
    data: bytes,
    container: Container,
    first: Image.Image,
    turn: int,
    counted: int,
    reopen: Callable[[], Image.Image],
    options: DecodeOptions,
    limits: Limits,
    profile: bytes | None = None,
) -> OtherFrames:
    """The frames to score beside the first one, which was decoded from the same file.

    first is upright; turn is the EXIF orientation of the file, counted its number of frames. reopen
    opens the file anew with Pillow. profile is the ICC profile of the file.
    """
    source: Source
    if kind == "gif":
        assert container.size is not None
        source = GifFrames(data, first.size)
    elif kind == "png":
        source = PngFrames(data, container, turn)
    elif kind == "jpeg":
        source, profile = ListedPictures(data, container), None  # each has its own
    else:
        source = SeekFrames(reopen, counted, turn, timed=kind not in _UNTIMED, crop=container.crop)
    return OtherFrames(source, first, counted, options, limits, profile)


def as_first_shown(kind: str, data: bytes, container: Container, image: Image.Image) -> Image.Image:
    """A file's first frame as browsers show it, given its image as Pillow loads it."""
    if kind == "gif":
        return with_surroundings(image, data)
    if kind == "png" and container.default_apart:
        return first_of_animation(data, container) or image
    return image


def _frame(shown: Shown) -> Frame:
    rgb, ambiguous = pixels.to_rgb(shown.image)
    upright = pixels.upright(rgb, shown.turn)
    return Frame(shown.index, shown.milliseconds, upright, ambiguous)
