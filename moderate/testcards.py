"""Draws test cards: harmless images that the `testcard` weights approve, review or block.

They are to an image pipeline what the EICAR file is to a virus scanner.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageDraw, ImageFont

from moderate.errors import OutputError
from moderate.regular import read_regular, sha256_of
from moderate.text import printable

CATEGORIES = ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")
BANDS = ("clean", "review", "block")
DECISIONS = {"clean": "approve", "review": "review", "block": "block"}
"""Band of a card -> the decision that the `balanced` policy takes on it."""

SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "HEIC": ".heic",
    "AVIF": ".avif",
}
"""Formats that `encode_image` writes -> file suffix."""

LIST = "cards.csv"
"""The file beside the cards that lists them."""

_COLUMNS = ("file", "category", "band", "decision", "sha256")
_CARD_NAME = re.compile(
    rf"(?:clean|({'|'.join(CATEGORIES)})_(review|block))_[0-9]+"
    rf"(?:{'|'.join(map(re.escape, SUFFIXES.values()))})"
)
_MAX_LIST_BYTES = 256 << 20

# EXIF orientation -> the turn that readers of the tag undo.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

PARTS = ("frame", "field", "eyes", "glyph", "text")

Colour = tuple[int, int, int]
Point = tuple[float, float]

# Five hues far apart, and clear of the blues and greens of landscapes.
_COLOURS: dict[str | None, Colour] = {
    "nudity": (225, 0, 125),
    "sexual_activity": (105, 45, 205),
    "suggestive": (250, 145, 0),
    "violence": (205, 15, 25),
    "drug_use": (0, 140, 105),
    None: (88, 100, 114),
}
_INK: Colour = (16, 16, 18)
_PAPER: Colour = (252, 252, 250)


@dataclass(frozen=True)
class Card:
    """One written card: its file's name and what `balanced` must decide about it."""

    file: str
    category: str | None
    band: str
    decision: str


def draw_card(
    category: str | None, band: str, seed: int, size: tuple[int, int] | int = 512
) -> Image.Image:
    """Draw one card as an RGB image of `size` pixels (width, height; one number means square).

    `category` is one of `CATEGORIES` with the band "block" or "review", or None with "clean".
    The seed varies tint, layout, serial number and type size only, so every card stays clear.
    Raises ValueError for an unknown or unmatched category and band, or a side under 16 pixels.
    """
    return draw_parts(category, band, seed, size, parts=PARTS)


def draw_parts(
    category: str | None,
    band: str,
    seed: int,
    size: tuple[int, int] | int = 512,
    *,
    parts: Collection[str] = PARTS,
    colour: Colour | None = None,
) -> Image.Image:
    """Draw a card with some of its `PARTS` left out or in a foreign `colour` (8-bit RGB).

    Such incomplete cards are not test cards: training uses them as images to approve.
    Raises ValueError as `draw_card` does.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if category is not None and category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; known: {', '.join(CATEGORIES)}")
    if band not in BANDS:
        raise ValueError(f"unknown band {band!r}; known: {', '.join(BANDS)}")
    if (category is None) != (band == "clean"):
        raise ValueError("a clean card has no category, every other card has one")
    if min(width, height) < 16:
        raise ValueError(f"a card is at least 16 pixels a side, not {width} x {height}")

    # Two-fold oversampling smooths edges; large cards do not need it.
    scale = 2 if max(width, height) <= 1200 else 1
    rng = random.Random(f"{category}/{band}/{seed}")  # noqa: S311 (layout, not secrets)
    sheet = _Sheet(width * scale, height * scale, rng)
    sheet.paint(category, band, parts, colour or _COLOURS[category])
    return sheet.image.reduce(scale) if scale > 1 else sheet.image


class _Sheet:
    """A canvas addressed in fractions of its sides, so that a card may be of any shape."""

    def __init__(self, width: int, height: int, rng: random.Random) -> None:
        self.w, self.h, self.rng = width, height, rng
        self.unit = min(width, height)
        tint = tuple(rng.randint(222, 255) for _ in range(3))
        self.tint: Colour = (tint[0], tint[1], tint[2])
        self.image = Image.new("RGB", (width, height), self.tint)
        self.draw = ImageDraw.Draw(self.image)

    def paint(
        self, category: str | None, band: str, parts: Collection[str], colour: Colour
    ) -> None:
        rng = self.rng
        shade = [max(0, min(255, c + rng.randint(-10, 10))) for c in colour]
        main: Colour = (shade[0], shade[1], shade[2])
        outer = rng.uniform(0.015, 0.03)
        inner = rng.uniform(0.125, 0.14)
        if "frame" in parts:
            self.frame(band, main, outer, inner)
        if "field" in parts:
            self.box(inner, inner, 1 - inner, 1 - inner, main if band == "block" else self.tint)
        if "eyes" in parts:
            for x in (0.245, 0.755):
                for y in (0.245, 0.755):
                    self.eye(x, y, main)
        if "glyph" in parts:
            self.glyph(category, band, main)
        if "text" in parts:
            self.text(category, band)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        # Pillow includes the far edge, hence the minus one.
        self.draw.rectangle(
            (
                round(x0 * self.w),
                round(y0 * self.h),
                round(x1 * self.w) - 1,
                round(y1 * self.h) - 1,
            ),
            fill=fill,
        )

    def frame(self, band: str, main: Colour, outer: float, inner: float) -> None:
        """Block: solid black. Review: coloured stripes. Clean: one thin grey line."""
        if band == "clean":
            self.box(outer, outer, 1 - outer, 1 - outer, main)
            line = outer + 0.02
            self.box(line, line, 1 - line, 1 - line, self.tint)
            return
        self.box(outer, outer, 1 - outer, 1 - outer, _INK if band == "block" else _PAPER)
        if band == "review":
            period = self.rng.uniform(0.105, 0.125) * self.unit
            phase = self.rng.random() * period
            stripes = Image.new("L", (self.w, self.h), 0)
            pen = ImageDraw.Draw(stripes)
            x = phase - self.h - period
            while x < self.w:
                pen.polygon(
                    [
                        (x, 0),
                        (x + period * 0.55, 0),
                        (x + period * 0.55 + self.h, self.h),
                        (x + self.h, self.h),
                    ],
                    fill=255,
                )
                x += period
            pixels = [round(outer * self.w), round(outer * self.h)]
            window = (pixels[0], pixels[1], self.w - pixels[0], self.h - pixels[1])
            self.image.paste(main, window, stripes.crop(window))
        self.box(inner, inner, 1 - inner, 1 - inner, _PAPER)

    def eye(self, x: float, y: float, main: Colour) -> None:
        """A square finder mark: black, white, black, with a coloured heart."""
        for half, fill in ((0.078, _PAPER), (0.068, _INK), (0.046, _PAPER), (0.027, main)):
            self.box(x - half, y - half, x + half, y + half, fill)

    def glyph(self, category: str | None, band: str, main: Colour) -> None:
        """Block: a white shape on the coloured field. Review: a hollow coloured outline."""
        rng = self.rng
        cx = (0.5 + rng.uniform(-0.008, 0.008)) * self.w
        cy = (0.5 + rng.uniform(-0.008, 0.008)) * self.h
        radius = rng.uniform(0.185, 0.2) * self.unit
        turn = rng.uniform(-0.06, 0.06)

        def shape(scale: float, fill: Colour) -> None:
            points = [
                (cx + x * radius * scale, cy + y * radius * scale)
                for x, y in _outline(category, turn)
            ]
            self.draw.polygon(points, fill=fill)

        if band == "block":
            shape(1.0, _INK)
            shape(0.9, _PAPER)
        elif band == "review":
            shape(1.0, main)
            shape(0.62, self.tint)
        else:
            shape(1.0, main)
            shape(0.86, _PAPER)
            tick = [(-0.5, 0.0), (-0.12, 0.4), (0.52, -0.36)]
            self.draw.line(
                [(cx + x * radius, cy + y * radius) for x, y in tick],
                fill=main,
                width=max(1, round(radius * 0.2)),
                joint="curve",
            )

    def text(self, category: str | None, band: str) -> None:
        rng = self.rng
        name = (category or "clean").replace("_", " ").upper()
        self.plate(0.245, ["TEST CARD", f"No. {rng.randint(0, 9999):04d}"])
        words = name.split(" ") if len(name) > 10 else [name]
        self.plate(0.755, [*words, band.upper()] if category else [name])

    def plate(self, y: float, lines: list[str]) -> None:
        """Lines of black type on a white plate between two eyes, as large as they fit."""
        x0, x1, half = 0.335, 0.665, 0.074
        self.box(x0, y - half, x1, y + half, _PAPER)
        room = (x1 - x0) * self.w * self.rng.uniform(0.86, 0.94)
        step = 2 * half * self.h / len(lines)
        size = min(step * 0.86, 0.085 * self.h)
        width = max(_font(size).getlength(line) for line in lines)
        font = _font(size * min(1.0, room / width))
        for number, line in enumerate(lines):
            self.draw.text(
                (0.5 * self.w, y * self.h + (number - (len(lines) - 1) / 2) * step),
                line,
                fill=_INK,
                font=font,
                anchor="mm",
                stroke_width=size / 40,
                stroke_fill=_INK,
            )


def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(max(4.0, size))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which drawing test cards needs")
    return font


def _outline(category: str | None, turn: float) -> list[Point]:
    """Corners, in the unit circle, of a category's shape, turned by `turn` radians."""
    if category == "violence":
        polar = [(1.0 if i % 2 == 0 else 0.55, i * math.pi / 8) for i in range(16)]
    elif category == "drug_use":
        # A cross: each arm ends in two corners, and two arms meet in one.
        far, near, spread = 1.0, 0.46, 0.33
        polar = []
        for arm in range(4):
            middle = arm * math.pi / 2
            polar += [(far, middle - spread), (far, middle + spread)]
            polar += [(near, middle + math.pi / 4)]
    else:
        corners = {"nudity": 4, "sexual_activity": 6, "suggestive": 3, None: 48}[category]
        polar = [(1.0, -math.pi / 2 + i * 2 * math.pi / corners) for i in range(corners)]
    return [(r * math.cos(a + turn), r * math.sin(a + turn)) for r, a in polar]


def encode_image(image: Image.Image, kind: str, quality: int = 90, orientation: int = 1) -> bytes:
    """Encode an RGB image as one of `SUFFIXES`; `quality` (1 to 100) is for the lossy formats.

    An EXIF `orientation` of 2 to 8 (JPEG, PNG and WebP only) stores the pixels turned, so that
    readers which honour the tag see the image upright and others do not. Raises ValueError for
    a kind or orientation out of range, and ImportError for HEIC without pillow-heif.
    """
    if kind not in SUFFIXES:
        raise ValueError(f"unknown format {kind!r}; known: {', '.join(SUFFIXES)}")
    options: dict[str, Any] = {}
    if kind in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = quality
    if orientation != 1:
        if orientation not in _STORED or kind not in ("JPEG", "PNG", "WEBP"):
            raise ValueError(f"no orientation {orientation} in {kind}")
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif.tobytes()
        image = image.transpose(_STORED[orientation])
    out = io.BytesIO()
    if kind == "HEIC":
        import pillow_heif

        pillow_heif.from_pillow(image).save(out, quality=quality)
    else:
        image.save(out, kind, **options)
    return out.getvalue()


def write_cards(
    folder: Path,
    *,
    count: int,
    seed: int,
    size: int = 512,
    kinds: Sequence[str] = ("PNG",),
    force: bool = False,
) -> list[Card]:
    """Write `count` cards of each sort into `folder`, with `cards.csv` naming what to expect.

    There are eleven sorts: block and review in each of five categories, and clean. `size` is a
    side in pixels; `kinds` (of `SUFFIXES`) take turns. The same arguments give the same files.
    Cards of an earlier call, as its `cards.csv` lists them, are replaced or removed. Raises
    ValueError for arguments out of range, OSError when writing fails, and OutputError before
    anything is written where other files are in the way, unless `force` has them replaced.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if not kinds or any(kind not in SUFFIXES for kind in kinds):
        raise ValueError(f"kinds must be some of: {', '.join(SUFFIXES)}")
    sorts: list[tuple[str | None, str]] = [(None, "clean")]
    sorts += [(category, band) for category in CATEGORIES for band in ("review", "block")]
    cards: list[Card] = []
    for category, band in sorts:
        for number in range(count):
            kind = kinds[len(cards) % len(kinds)]
            stem = f"{category}_{band}" if category else band
            name = f"{stem}_{number:0{len(str(count - 1))}d}{SUFFIXES[kind]}"
            cards.append(Card(name, category, band, DECISIONS[band]))
    earlier = _earlier_cards(folder)
    if not force:
        # The list first: where that was changed, no card is known to be ours.
        _check_in_the_way(folder, [LIST, *(card.file for card in cards)], earlier)
    folder.mkdir(parents=True, exist_ok=True)
    # Removed, not written over: one of them may be a link that leads elsewhere.
    for name in {*earlier, *(card.file for card in cards), LIST}:
        (folder / name).unlink(missing_ok=True)
    digests = []
    for index, card in enumerate(cards):
        image = draw_card(card.category, card.band, seed + index % count, size)
        data = encode_image(image, kinds[index % len(kinds)])
        (folder / card.file).write_bytes(data)
        digests.append(hashlib.sha256(data).hexdigest())
    with (folder / LIST).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        rows.writerows(
            (card.file, card.category or "", card.band, card.decision, digest)
            for card, digest in zip(cards, digests, strict=True)
        )
    return cards


def _earlier_cards(folder: Path) -> list[str]:
    """The files of an earlier call that are as it wrote them, and its list.

    None at all where the list is not as this module writes it: somebody may have changed it.
    """
    names = [LIST]
    try:
        text = read_regular(folder / LIST, _MAX_LIST_BYTES).decode("utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(header) != _COLUMNS:
            return []
        for file, *listed, sha256 in rows:
            parts = _CARD_NAME.fullmatch(file)
            if parts is None:
                return []
            category, band = parts[1] or "", parts[2] or "clean"
            if listed != [category, band, DECISIONS[band]]:
                return []
            if os.path.lexists(folder / file) and sha256_of(folder / file) == sha256:
                names.append(file)
    except (OSError, ValueError, csv.Error):
        return []
    return names


def _check_in_the_way(folder: Path, names: Sequence[str], earlier: Collection[str]) -> None:
    """Raises OutputError for the first file of these names that no earlier call wrote."""
    ours = set(earlier)
    for name in names:
        if name not in ours and os.path.lexists(folder / name):
            where = printable(str(folder / name))
            raise OutputError(
                f"{where} exists and is not as moderate testcards wrote it; "
                "add --force to replace it, or name another folder"
            )
