"""How an image is laid out: blank borders around it, and panels as in contact sheets and comics.

Everything is found on lines of samples: 32 pixels of each row, and 32 of each column. That costs a
small share of decoding, because it grows with the sides of an image and not with its area. In
ordinary photographs the green channel of a few samples is enough to find nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""

MOST_PANELS = 16
"""The most panels that are looked at one by one."""

SMALLEST_PANEL = 0.1
"""A share of the side of the image: anything smaller between gutters is text or a speck."""

GLANCE = 160
"""Pixels a side of an image that is large enough to see that there is nothing to find."""

_AT_GLANCE = slice(2, -2)  # without an outline
_BLANK_ONE_WAY = 0.4  # of the lines have one colour, above or beside a small picture
_BLANK_BOTH_WAYS = 0.08  # of the lines each way do, around it
_GLANCE_ONE = 0.50  # of the samples that change at a line more than at those nearby
_GLANCE_SEVERAL = 0.20  # the same, at more than one line
_GLANCE_GUTTER = 0.85  # of the spread of colours beside it, that a thin gutter has at most
_GLANCE_REACH = 4  # lines that a seam of a grid may be away from its place
_SAMPLES = 32  # across each line
_MOST_LINES = 4096  # of each direction; more do not find more
_FEWEST_LINES = 16  # there is nothing to lay out in fewer pixels
_INNER = slice(1, -1)  # samples; an outline of the image has an end in each line
_OUTLINE = 50  # the outermost 1/50 of the lines may be an outline of another colour
_ROUNDS = 4  # of trimming, for borders within borders
_SAME_BORDER = 12  # levels of 255 that JPEG's noise moves a uniform colour by
_SAME_GUTTER = 24  # the same close to edges, as all of a gutter is
_MOST_STRAY = 1  # of the samples of a gutter that may have another colour
_BESIDE = 3  # lines from a gutter, where the panel is
_SHARP = 0.35  # of the samples there, that have another colour than the gutter

_EDGE = 0.2  # of the samples change where a panel ends at a gutter
_FRAME = 0.15  # of a panel, that goes with it on either side of it, as far as the gutter goes
_DEPTH = 3  # of panels within panels
_EQUAL_IN_MOSAIC = 0.85  # of neighbouring pixels
_FEWEST_IN_ROW = 3  # or
_FEWEST = 5  # in all: larger panels are seen well enough in the whole
_UNCUT = [(0.0, 1.0)]

# A seam without a gutter: in so much more of the samples than anywhere 4 to 8 lines away, lines
# differ by more than _STEP levels from the next but one. Grids are regular, which is the better
# sign: their seams may be weaker. Of 500 crops of photographs, 0.5 % had seams as strong as these.
_STEP = 20
_SEAM_OF_GRID = 0.30
_SEAM_ALONE = 0.90
_NEARBY = (*range(-8, -3), *range(4, 9))
_MOST_IN_GRID = 8
_MOST_SEAMS = 6  # lines that look like a seam, for each seam of a grid
_GRID_TOLERANCE = 0.004  # of the side, that a seam may be away from its place


@dataclass(frozen=True, slots=True)
class _Lines:
    """Samples of all lines in one direction: rgb is (samples, lines, 3), green (samples, lines)."""

    rgb: NDArray[np.uint8]
    green: NDArray[np.uint8]

    def __len__(self) -> int:
        return int(self.green.shape[1])


@dataclass(frozen=True, slots=True)
class Glance:
    """What a small copy of an image shows of its layout: what is worth a closer look."""

    borders: bool
    panels: bool


def glance(small: NDArray[np.uint8]) -> Glance:
    """Whether there may be blank borders and panels; there are neither in most photographs.

    small is the whole image squashed to H x W x 3, at least GLANCE pixels a side; the input of a
    model often is that. This takes a tenth of the time of the closer look that it saves.
    """
    green = small[_AT_GLANCE, _AT_GLANCE, 1]
    blank: list[float] = []
    panels = False
    for lines in (np.ascontiguousarray(green.T), np.ascontiguousarray(green)):
        spread = lines.max(axis=0) - lines.min(axis=0)
        blank.append(np.count_nonzero(spread <= 2 * _SAME_BORDER) / len(spread))
        panels = panels or _may_be_cut(_rise(_steps(lines[::2])), spread)
    borders = max(blank) >= _BLANK_ONE_WAY or min(blank) >= _BLANK_BOTH_WAYS
    return Glance(borders, panels or borders)


def _may_be_cut(rise: NDArray[np.float32], spread: NDArray[np.uint8]) -> bool:
    """Whether small lines may hide a seam or a gutter; rise and spread are those of each line.

    One line that is much unlike its neighbours may be a seam. Weaker ones are those of a grid where
    they lie as regularly, or gutters where the colours along the line spread less than on both
    sides: a gutter thinner than a line at this size is blended with what is beside it. The edges of
    ordinary things, such as a horizon, are neither.
    """
    if rise.max() >= _GLANCE_ONE:
        return True
    weak = rise >= _GLANCE_SEVERAL
    at = np.flatnonzero(weak)
    if len(at) < 2:
        return False
    last = len(spread) - 1
    inside = np.minimum.reduce([spread[np.clip(at + away, 0, last)] for away in (-1, 0, 1)])
    beside = np.minimum(spread[np.maximum(at - 4, 0)], spread[np.minimum(at + 4, last)])
    if (inside < _GLANCE_GUTTER * beside).any():
        return True
    cut = _AT_GLANCE.start
    for pieces in range(2, _MOST_IN_GRID + 1):
        places = (round(n * (last + 1 + 2 * cut) / pieces) - cut for n in range(1, pieces))
        if all(
            weak[max(0, place - _GLANCE_REACH) : place + _GLANCE_REACH].any() for place in places
        ):
            return True
    return False


class Layout:
    """Looks at one RGB image; boxes are in its pixels."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._lines: dict[tuple[Box, bool], _Lines] = {}

    @property
    def whole(self) -> Box:
        """The box of the whole image."""
        return 0.0, 0.0, float(self._image.width), float(self._image.height)

    def is_blank(self) -> bool:
        """Whether the image has one colour throughout."""
        return all(
            _blank_lines(lines) == len(lines)
            for lines in (self._sample(self.whole, down=down) for down in (True, False))
        )

    def is_mosaic(self, box: Box) -> bool:
        """Whether this part of the image consists of cells of one colour each.

        A chessboard is one: it has panels, with nothing in them. In photographs, and in drawn
        pictures with shading, neighbouring pixels are hardly ever equal.
        """
        return all(
            float((lines.green[:, 1:] == lines.green[:, :-1]).mean()) >= _EQUAL_IN_MOSAIC
            for lines in (self._sample(box, down=down) for down in (True, False))
            if len(lines) > 1
        )

    def contents(self) -> Iterator[Box]:
        """The content within blank borders, then the content within the borders of that, and so on.

        Yields nothing for an image that is blank throughout.
        """
        box = self.whole
        for _ in range(_ROUNDS):
            trimmed = self._trim(self._trim(box, down=True), down=False)
            if trimmed == box or min(trimmed[2] - trimmed[0], trimmed[3] - trimmed[1]) < 1:
                return
            box = trimmed
            yield box

    def panels(self, box: Box) -> tuple[list[Box], int]:
        """The panels within this part of the image and their number; none if it is a single panel.

        Panels within a panel are returned beside it, because it may be a single picture that only
        looks like several. Where there are too many, only the outer ones are returned. Fewer than
        three in a row and fewer than five in all do not count: they are seen well enough in the
        whole.
        """
        panels, count, longest = self._panels(box)
        return (panels, count) if longest >= _FEWEST_IN_ROW or count >= _FEWEST else ([], 0)

    def _panels(self, box: Box) -> tuple[list[Box], int, int]:
        """All panels, however few, their number, and the most in a row."""
        smallest = SMALLEST_PANEL * (box[2] - box[0]), SMALLEST_PANEL * (box[3] - box[1])
        panels: list[Box] = []
        level, longest = [box], 0
        for _ in range(_DEPTH):
            split = {outer: cells for outer in level if (cells := self._split(outer, smallest))}
            longest = max([longest, *(max(len(rows), len(rows[0])) for rows in split.values())])
            level = [cell for rows in split.values() for row in rows for cell in row]
            outer = [each for each in panels if each not in split or not _is_row(each)]
            if panels and len(outer) + len(level) > MOST_PANELS:
                return panels, len(outer) + len(level), longest
            panels = [*outer, *level]
            if not level or len(panels) > MOST_PANELS:
                break
        return panels, len(panels), longest

    def _trim(self, box: Box, *, down: bool) -> Box:
        """The box without blank lines at its two ends in one direction."""
        lines = self._sample(box, down=down)
        count = len(lines)
        before = _blank_lines(lines)
        if before == count:
            return box
        after = _blank_lines(_Lines(lines.rgb[:, ::-1], lines.green[:, ::-1]))
        # Together they may be more than all lines, where the two ends differ a little in colour.
        if not 0 < before + after < count:
            return box
        return _part(box, before / count, 1 - after / count, down=down)

    def _split(self, box: Box, smallest: tuple[float, float]) -> list[list[Box]]:
        """The boxes into which gutters and seams cut a box, row by row; empty without any."""
        down = self._pieces(box, smallest, down=True)
        across = self._pieces(box, smallest, down=False)
        if down == across == _UNCUT:
            return []
        rows = [_part(box, *piece, down=True) for piece in down]
        return [[_part(row, *piece, down=False) for piece in across] for row in rows]

    def _pieces(
        self, box: Box, smallest: tuple[float, float], *, down: bool
    ) -> list[tuple[float, float]]:
        """The pieces that gutters or seams cut the box into, one way, as shares of its length."""
        least = smallest[down] / (box[3] - box[1] if down else box[2] - box[0])
        lines = self._sample(box, down=down)
        if len(lines) < _FEWEST_LINES or least >= 1:
            return _UNCUT
        steps = _steps(lines.green)
        if steps.max() < _EDGE:  # no edge of a panel is softer
            return _UNCUT
        pieces = _between_gutters(lines, steps, least)
        return pieces if len(pieces) > 1 else _between_seams(steps, least)

    def _sample(self, box: Box, *, down: bool) -> _Lines:
        """Samples of the rows (down=True) or columns of a box, one line for each."""
        key = box, down
        if key not in self._lines:
            left, top, right, bottom = box
            count = min(_MOST_LINES, max(1, int(bottom - top if down else right - left)))
            size = (_SAMPLES, count) if down else (count, _SAMPLES)
            rgb = np.asarray(self._image.resize(size, Image.Resampling.NEAREST, box=box))
            rgb = rgb.swapaxes(0, 1) if down else rgb
            self._lines[key] = _Lines(rgb, np.ascontiguousarray(rgb[..., 1]))
        return self._lines[key]


def _part(box: Box, start: float, stop: float, *, down: bool) -> Box:
    """The stretch of a box between two shares of its height (down=True) or width."""
    left, top, right, bottom = box
    if down:
        return left, top + start * (bottom - top), right, top + stop * (bottom - top)
    return left + start * (right - left), top, left + stop * (right - left), bottom


def _is_row(box: Box) -> bool:
    """Whether it is a row or a column of panels rather than a panel."""
    width, height = box[2] - box[0], box[3] - box[1]
    return max(width, height) >= 2 * min(width, height)


def _blank_lines(lines: _Lines) -> int:
    """How many lines at the start have one and the same colour, not counting an outline."""
    if len(lines) < _FEWEST_LINES:
        return 0
    outline = max(1, len(lines) // _OUTLINE)
    first = lines.green[_INNER, outline : 2 * outline]
    if int(first.max()) - int(first.min()) > 2 * _SAME_BORDER:  # true of most photographs
        return 0
    # The median, without np.median, which imports a module on first use: nothing can be opened in
    # the sandbox.
    colours = np.sort(lines.rgb[_INNER, outline : 2 * outline].reshape(-1, 3), axis=0)
    colour = colours[len(colours) // 2]
    blank = len(lines)
    for channel in range(3):
        inner = lines.rgb[_INNER, outline:blank, channel]
        strays = (_apart(inner, colour[channel]) > _SAME_BORDER).any(axis=0)
        if strays.any():
            blank = outline + int(strays.argmax())
        if blank < 2 * outline:
            return 0
    return blank


def _apart(one: NDArray[np.uint8], other: NDArray[np.uint8] | np.uint8) -> NDArray[np.uint8]:
    """The distances of two arrays that may be broadcast, without leaving uint8."""
    apart: NDArray[np.uint8] = np.maximum(one, other) - np.minimum(one, other)
    return apart


def _between_gutters(
    lines: _Lines, steps: NDArray[np.float32], least: float
) -> list[tuple[float, float]]:
    """The stretches of lines between gutters: two lines or more of one colour from end to end.

    What is smaller than `least` of the length goes with the panel before it where that is near, as
    a caption does, and is left out elsewhere.
    """
    count = len(lines)
    blank = _one_coloured(lines, steps)
    if not blank.any():
        return _UNCUT
    edges = np.flatnonzero(np.diff(blank, prepend=True, append=True))
    panels: list[tuple[int, int]] = []
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if panels and not _is_gutter(lines, panels[-1][1], start):
            panels[-1] = panels[-1][0], stop
        elif stop - start >= least * count:
            panels.append((start, stop))
        elif panels and start - panels[-1][1] < least * count:
            panels[-1] = panels[-1][0], stop
    if len(panels) < 2:
        return _UNCUT
    edges_around = [0, *itertools.chain.from_iterable(panels), count]
    padded = []
    for number, (start, stop) in enumerate(panels):
        # Lines that are blank from end to end may be the frame of a picture and belong to it.
        pad = round(_FRAME * (stop - start))
        first = max(edges_around[2 * number], start - pad)
        last = min(edges_around[2 * number + 3], stop + pad)
        padded.append((first / count, last / count))
    return padded


def _one_coloured(lines: _Lines, steps: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which lines may have one colour from end to end and panels beside them: (lines)."""
    blank = np.zeros(len(lines), bool)
    few = lines.green[1:-1:4]  # rule nearly all lines out
    even = few.max(axis=0) - few.min(axis=0) <= 2 * _SAME_GUTTER
    if not even.any():
        return blank
    candidates = np.flatnonzero(_with_edges(even, steps))
    if len(candidates):
        for place in (_SAMPLES // 4, _SAMPLES // 2):  # at most one of them is stray
            remaining = candidates
            for channel in (lines.green, lines.rgb[..., 0], lines.rgb[..., 2]):
                if not len(remaining):
                    break
                some = channel[_INNER, remaining]
                away = _apart(some, some[place]) > _SAME_GUTTER
                remaining = remaining[np.count_nonzero(away, axis=0) <= _MOST_STRAY]
            blank[remaining] = True
    return blank


def _with_edges(even: NDArray[np.bool_], steps: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Those of the even lines whose stretch has an edge at one end at least."""
    count = len(even)
    changes = np.flatnonzero(even[1:] != even[:-1]) + 1
    ends = np.concatenate(([0], changes, [count]))
    if not len(changes) and not even[0]:
        return even
    edges = np.concatenate(([0], np.cumsum(steps >= _EDGE)))
    near = edges[np.minimum(ends + _BESIDE, count)] > edges[np.maximum(ends - _BESIDE, 0)]
    stretches = near[:-1] | near[1:]
    stretches[int(even[0]) :: 2] = False  # those between the even ones
    return np.repeat(stretches, np.diff(ends))


def _is_gutter(lines: _Lines, start: int, stop: int) -> bool:
    """Whether pictures end sharply at these blank lines, unlike a sky or a wall."""
    if stop - start < 2:
        return False
    colour = lines.rgb[_INNER, (start + stop) // 2]
    beside = max(0, start - _BESIDE), min(len(lines) - 1, stop - 1 + _BESIDE)
    differs = [_apart(lines.rgb[_INNER, line], colour) > _SAME_GUTTER for line in beside]
    return all(each.any(axis=1).mean() >= _SHARP for each in differs)


def _between_seams(steps: NDArray[np.float32], least: float) -> list[tuple[float, float]]:
    """The stretches of lines between straight seams from end to end."""
    count = len(steps)
    rise = _rise(steps)
    seams = np.count_nonzero(rise >= _SEAM_OF_GRID)
    if not seams:
        return _UNCUT
    cuts: list[float] = []
    for pieces in range(_MOST_IN_GRID, 1, -1):
        # A mosaic of small pieces has seams everywhere.
        if seams > _MOST_SEAMS * (pieces - 1) or pieces * least > 1:
            continue
        if found := _seams_of_grid(rise, pieces):
            cuts = found
            break
    else:
        for line in np.flatnonzero(rise >= _SEAM_ALONE).tolist():
            share = (line + 0.5) / count
            if share - (cuts[-1] if cuts else 0.0) >= least and share <= 1 - least:
                cuts.append(share)
    return list(itertools.pairwise([0.0, *cuts, 1.0]))


def _steps(green: NDArray[np.uint8]) -> NDArray[np.float32]:
    """In what share of the samples the lines before and after each one differ: (lines)."""
    samples, count = green.shape
    steps = np.zeros(count, np.float32)
    changes = _apart(green[:, 2:], green[:, :-2]) > _STEP
    steps[1:-1] = np.count_nonzero(changes, axis=0) / samples
    return steps


def _rise(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much larger each step is than any step nearby: (lines)."""
    count = len(steps)
    padded = np.zeros(count + 16, np.float32)
    padded[8:-8] = steps
    nearby = np.zeros(count, np.float32)
    for away in _NEARBY:
        np.maximum(nearby, padded[8 + away : 8 + away + count], out=nearby)
    rise: NDArray[np.float32] = steps - nearby
    return rise


def _seams_of_grid(rise: NDArray[np.float32], pieces: int) -> list[float] | None:
    """Where the seams of so many equal pieces are, as shares; None unless each is there."""
    count = len(rise)
    reach = max(2, round(_GRID_TOLERANCE * count))
    cuts = []
    for number in range(1, pieces):
        start = max(0, round(number * count / pieces) - reach)
        best = start + int(rise[start : start + 2 * reach + 1].argmax())
        if rise[best] < _SEAM_OF_GRID:
            return None
        cuts.append((best + 0.5) / count)
    return cuts
