"""Which parts of a picture the models are shown, and what they do not see of it.

The first part is what the models are made to see: the scores of their own preprocessing. Further
parts are squashed onto the models' input and can only raise scores. `auto` adds as few as a picture
of this shape needs, so that ordinary photographs cost no more than before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderate.decode.layout import GLANCE, MOST_PANELS, Box, Layout, glance
from moderate.decode.parts import MOST_PARTS, DecodeOptions, Looked
from moderate.decode.resize import Pixels, PixelSpec, resize, source_box

WHOLE_FROM = 0.25
"""The unseen share from which `auto` adds the whole picture, and from which presets review it."""

LONG_FROM = 2.0
"""The ratio of the sides from which a picture or panel is long, and gets tiles."""

TRIMMED_BELOW = 0.5
"""Content within blank borders is a part of its own if it takes less than this share of a side.

Larger content is seen well enough in the whole.
"""

SMALLEST_SIDE = 8
"""Pixels of the file. Anything narrower within blank borders or between gutters is not a part.

Nobody recognizes anything in it: it is a speck, a line or the grain of a wall.
"""

MOST_TILES = 15
"""The most tiles of a long picture."""

_TILE = 1.75  # length by width; overlapping by a width, they hold all that fits the short side
_TILE_STEP = 0.75  # in widths
_LONGEST_TILE = 2.0
_WINDOWS = 4  # in each direction, where there are too many panels to look at one by one
_WINDOW = 3 / 8  # of the side; a sixth of a side is wholly inside one of them
_WINDOWED_PANELS = 36  # windows show up to this many panels well enough
_GRID_TILE = 0.6  # of the side; for the tiles of ordinary pictures
_END = 0.75  # of a square picture's height
_SQUASHED_PANEL = 4.0  # the longest panel, by ratio, that is also shown in one piece

_ENOUGH = 0.75  # a part has enough pixels with this share of the side of the models' input
_PLENTY = 4  # the same; an image is reduced to that before its parts are cut out


def look(
    image: Image.Image,
    specs: tuple[PixelSpec, ...],
    options: DecodeOptions,
    size: tuple[int, int] | None = None,
    most: int = MOST_PARTS,
) -> Looked:
    """The parts of an RGB image that the models are shown; the first is what they are made to see.

    size is the full (width, height) where `image` was decoded at a reduced scale. most is how many
    parts there is room for.
    """
    full = size or image.size
    base = tuple(resize(image, spec, size) for spec in specs)
    chooser = _Chooser(image, specs, options, full, base)
    boxes, unseen = chooser.choose(most - 1)
    if not boxes:
        return Looked([None], [base], unseen)
    closer = [box for box in boxes if box != chooser.whole]
    reduced = _reduced(image, specs, full, closer) if closer else image
    pixels: list[tuple[Pixels, ...]] = [
        tuple(
            chooser.whole_for(place) if box == chooser.whole else resize(reduced, spec, full, box)
            for place, spec in enumerate(specs)
        )
        for box in boxes
    ]
    percent = [_percent(box, full) for box in boxes]
    wanted = _wanted_scale(specs, boxes)
    return Looked(
        [None, *percent],
        [base, *pixels],
        unseen,
        wanted_scale=wanted if _ENOUGH * wanted > image.width / full[0] else 0.0,
    )


def unseen_share(
    specs: Sequence[PixelSpec],
    seen_by: Sequence[Sequence[int]],
    size: tuple[int, int],
    boxes: Sequence[Box] = (),
) -> float:
    """The largest share of a (width, height) image that the models of one category do not see.

    seen_by is that of `DecodeOptions`. All models see boxes, in addition to what each is made to
    see.
    """
    covered = min(
        _covered([*(source_box(specs[place], size) for place in places), *boxes], size)
        for places in _groups(specs, seen_by)
    )
    return max(0.0, round(1 - covered, 9))


def tiles(box: Box, most: int = MOST_TILES) -> list[Box]:
    """Tiles along the long side of a box whose sides have a ratio of LONG_FROM or more.

    As long as there are enough, anything as large as the short side is inside one of them: they are
    1.75 times as long as wide and overlap by a width, and up to twice as long as wide for longer
    pictures. Of still longer ones they overlap less, then they are as long as they have to be.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    ratio = max(width, height) / min(width, height)
    count = math.ceil((ratio - _TILE) / _TILE_STEP - 1e-9) + 1
    length = _TILE
    if count > most:
        count = most
        # So that two neighbours overlap by a width: length - 1 >= (ratio - length) / (count - 1).
        length = min(_LONGEST_TILE, (ratio + count - 1) / count)
        length = max(length, ratio / count)
    step = (ratio - length) / max(1, count - 1)
    spans = [(n * step / ratio, (n * step + length) / ratio) for n in range(count)]
    if width >= height:
        return [_inside(box, start, 0, stop, 1) for start, stop in spans]
    return [_inside(box, 0, start, 1, stop) for start, stop in spans]


class _Chooser:
    """Chooses the parts of one image beside the base, as boxes of its full (width, height)."""

    def __init__(
        self,
        image: Image.Image,
        specs: tuple[PixelSpec, ...],
        options: DecodeOptions,
        size: tuple[int, int],
        base: tuple[Pixels, ...],
    ) -> None:
        self._image = image
        self._specs = specs
        self._options = options
        self._size = size
        self._base = base
        self.whole: Box = 0.0, 0.0, float(size[0]), float(size[1])
        self._wholes: dict[int, Pixels] = {}

    def whole_for(self, place: int) -> Pixels:
        """The whole image, squashed onto the input of the spec at that place."""
        if place not in self._wholes:
            spec = self._specs[place]
            if source_box(spec, self._size) == self.whole:
                self._wholes[place] = self._base[place]
            else:
                self._wholes[place] = resize(self._image, spec, self._size, self.whole)
        return self._wholes[place]

    def choose(self, room: int) -> tuple[list[Box], float]:
        """At most `room` boxes, and the share of the image that no part shows well enough."""
        if self._options.views == "1" or room < 1:
            return [], self._unseen()
        if self._options.views == "3":
            lost = _beyond_tiles(self.whole, MOST_TILES)
            return [self.whole, *_ends(self.whole)][:room], lost
        layout = Layout(self._image)
        worth = glance(self._small_copy())
        contents = self._contents(layout) if worth.borders else []
        content = contents[-1] if contents else self.whole
        panels, count = layout.panels(self._at_image_size(content)) if worth.panels else ([], 0)
        pieces = [self._at_full_size(panel) for panel in panels]
        if pieces and max(map(_short_side, pieces)) < SMALLEST_SIDE:
            pieces, count = [], 0
        if count > _WINDOWED_PANELS and layout.is_mosaic(self._at_image_size(content)):
            count = _WINDOWED_PANELS
        whole_is_new = any(source_box(spec, self._size) != self.whole for spec in self._specs)
        closer, lost = self._closer(content, pieces, count, room - len(contents) - whole_is_new)
        boxes = [*contents, *closer]
        # What is outside of the content is blank, and was looked at to know that.
        unseen = self._unseen([*boxes, *_around(contents[0] if contents else None, self.whole)])
        if (boxes or unseen or lost) and layout.is_blank():
            return [], 0.0
        if whole_is_new and (self._options.views == "tiles" or unseen >= WHOLE_FROM):
            boxes.insert(0, self.whole)
            unseen = 0.0
        if len(boxes) > room:
            lost = max(lost, 1 - room / len(boxes))
        return boxes[:room], max(unseen, lost)

    def _small_copy(self) -> NDArray[np.uint8]:
        """The whole image at a small size: as a model gets it, which most are given anyway."""
        for place, spec in enumerate(self._specs):
            if spec.antialias and min(spec.width, spec.height) >= GLANCE:
                return self.whole_for(place).astype(np.uint8, copy=False)
        small = self._image.resize((GLANCE, GLANCE), Image.Resampling.BOX, reducing_gap=2)
        return np.asarray(small)

    def _unseen(self, boxes: Sequence[Box] = ()) -> float:
        return unseen_share(self._specs, self._options.seen_by, self._size, boxes)

    def _contents(self, layout: Layout) -> list[Box]:
        """The content within large blank borders, then the content within such borders of that."""
        contents: list[Box] = []
        width, height = map(float, self._image.size)
        for left, top, right, bottom in layout.contents():
            content = self._at_full_size((left, top, right, bottom))
            if _short_side(content) < SMALLEST_SIDE:
                break
            if right - left < TRIMMED_BELOW * width or bottom - top < TRIMMED_BELOW * height:
                width, height = right - left, bottom - top
                contents.append(content)
        return contents

    def _closer(
        self, content: Box, panels: list[Box], count: int, room: int
    ) -> tuple[list[Box], float]:
        """The boxes that show the content closely, and the share of it that none shows closely.

        count is how many panels there are, not all of which may be known.
        """
        most = max(1, min(MOST_TILES, room))
        if not panels:
            if _ratio(content) >= LONG_FROM:
                return tiles(content, most), _beyond_tiles(content, most)
            return _grid(content) if self._options.views == "tiles" else [], 0.0
        boxes = list(itertools.chain.from_iterable(map(_panel_boxes, panels)))
        if _ratio(content) >= LONG_FROM:
            # Tiles show all of it, wherever the panels really are.
            along = tiles(content, most)
            fit = len(boxes) <= min(MOST_PANELS, room - len(along))
            return [*along, *(boxes if fit else ())], _beyond_tiles(content, most)
        if len(boxes) <= MOST_PANELS:
            return boxes, max(_beyond_tiles(panel, MOST_TILES) for panel in panels)
        return _windows(content), max(0.0, 1 - _WINDOWED_PANELS / count)

    def _at_full_size(self, box: Box) -> Box:
        across, down = (full / own for full, own in zip(self._size, self._image.size, strict=True))
        return box[0] * across, box[1] * down, box[2] * across, box[3] * down

    def _at_image_size(self, box: Box) -> Box:
        width, height = self._image.size
        across, down = width / self._size[0], height / self._size[1]
        right, bottom = min(box[2] * across, width), min(box[3] * down, height)
        return box[0] * across, box[1] * down, right, bottom


def _panel_boxes(panel: Box) -> list[Box]:
    """The boxes in which one of several panels is shown."""
    if _ratio(panel) < LONG_FROM:
        return [panel]
    return [*([panel] if _ratio(panel) <= _SQUASHED_PANEL else ()), *tiles(panel)]


def _ends(whole: Box) -> list[Box]:
    """The two ends along the longer side: squares, unless the picture itself is nearly square."""
    width, height = whole[2], whole[3]
    share = min(_END, min(width, height) / max(width, height))
    if width > height:
        return [_inside(whole, 0, 0, share, 1), _inside(whole, 1 - share, 0, 1, 1)]
    return [_inside(whole, 0, 0, 1, share), _inside(whole, 0, 1 - share, 1, 1)]


def _grid(box: Box) -> list[Box]:
    """Two by two overlapping tiles."""
    starts = (0.0, 1 - _GRID_TILE)
    return [_inside(box, x, y, x + _GRID_TILE, y + _GRID_TILE) for y in starts for x in starts]


def _windows(box: Box) -> list[Box]:
    """A grid of windows for many small panels."""
    starts = [n * (1 - _WINDOW) / (_WINDOWS - 1) for n in range(_WINDOWS)]
    return [_inside(box, x, y, x + _WINDOW, y + _WINDOW) for y in starts for x in starts]


def _beyond_tiles(box: Box, most: int) -> float:
    """The share of a long box that so many tiles do not show closely.

    It is the share of the places where the end of every tile would cut something as large as the
    short side, for tiles that are twice as long as wide.
    """
    return max(0.0, 1 - most * (_LONGEST_TILE - 1) / max(1.0, _ratio(box) - 1))


def _around(content: Box | None, whole: Box) -> list[Box]:
    """The boxes around the content; none where content is None, which stands for the whole."""
    if content is None:
        return []
    left, top, right, bottom = content
    return [
        (0.0, 0.0, left, whole[3]),
        (right, 0.0, whole[2], whole[3]),
        (0.0, 0.0, whole[2], top),
        (0.0, bottom, whole[2], whole[3]),
    ]


def _inside(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """The part of a box between these shares of its sides."""
    x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
    return x + left * width, y + top * height, x + right * width, y + bottom * height


def _ratio(box: Box) -> float:
    """The longer side by the shorter one."""
    width, height = box[2] - box[0], box[3] - box[1]
    return max(width, height) / min(width, height)


def _short_side(box: Box) -> float:
    return min(box[2] - box[0], box[3] - box[1])


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _groups(
    specs: Sequence[PixelSpec], seen_by: Sequence[Sequence[int]]
) -> Sequence[Sequence[int]]:
    return [each for each in seen_by if each] or [(place,) for place in range(len(specs))]


def _covered(boxes: Sequence[Box], size: tuple[int, int]) -> float:
    """The share of a (width, height) image that these boxes cover together."""
    if len(boxes) == 1:
        return _area(boxes[0]) / (size[0] * size[1])
    sides = np.array(boxes)
    # Not np.unique, which imports a module on first use: nothing can be opened in the sandbox.
    across, down = (np.array(sorted(set(sides[:, way::2].flat))) for way in (0, 1))
    places = zip(
        *np.searchsorted(across, sides[:, ::2]).T,
        *np.searchsorted(down, sides[:, 1::2]).T,
        strict=True,
    )
    covered = np.zeros((len(down) - 1, len(across) - 1))
    for left, right, top, bottom in places:
        covered[top:bottom, left:right] = 1
    return float(np.diff(down) @ covered @ np.diff(across)) / (size[0] * size[1])


def _percent(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size
    left, right = (min(100, round(100 * side / width)) for side in box[::2])
    top, bottom = (min(100, round(100 * side / height)) for side in box[1::2])
    return left, top, right, bottom


def _reduced(
    image: Image.Image, specs: tuple[PixelSpec, ...], size: tuple[int, int], boxes: Sequence[Box]
) -> Image.Image:
    """The image, reduced as far as the parts allow, so that many parts cost little."""
    if any(spec.exact or not spec.antialias for spec in specs):
        return image
    factor = int(image.width / size[0] / (_PLENTY * _wanted_scale(specs, boxes)))
    return image.reduce(factor) if factor > 1 else image


def _wanted_scale(specs: tuple[PixelSpec, ...], boxes: Sequence[Box]) -> float:
    """The scale at which each part has as many pixels as the models' input, at most 1."""
    scales = [
        max(spec.width / (box[2] - box[0]), spec.height / (box[3] - box[1]))
        for spec in specs
        for box in boxes
    ]
    return min(1.0, max(scales))
