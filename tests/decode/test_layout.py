"""Borders and panels are found where they are, and not in what only looks like them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from moderate.decode.layout import GLANCE, MOST_PANELS, Box, Glance, Layout, glance
from tests.support.pictures import scene


def as_jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def canvas_with(
    picture: Image.Image, at: tuple[int, int], size: tuple[int, int], colour: str
) -> Image.Image:
    canvas = Image.new("RGB", size, colour)
    canvas.paste(picture, at)
    return canvas


def sheet(
    columns: int, rows: int, gutter: int, colour: str = "white", size: tuple[int, int] = (900, 720)
) -> tuple[Image.Image, list[Box]]:
    """A sheet of different pictures, and where they are."""
    image = Image.new("RGB", size, colour)
    width, height = (size[0] - gutter) / columns, (size[1] - gutter) / rows
    boxes = []
    for number in range(columns * rows):
        column, row = number % columns, number // columns
        left, top = round(gutter + column * width), round(gutter + row * height)
        right, bottom = round((column + 1) * width), round((row + 1) * height)
        # From the middle of a scene: no two have the same seed, nor edges that fit.
        image.paste(scene((right - left, bottom - top), seed=number + 1), (left, top))
        boxes.append((float(left), float(top), float(right), float(bottom)))
    return image, boxes


def close(one: Box, other: Box, within: float = 4.0) -> bool:
    return all(abs(a - b) <= within for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("colour", ["white", "black", "teal"])
@pytest.mark.parametrize("at", [(0, 0), (310, 220), (480, 0)])
def test_a_border_of_any_colour_on_any_side_is_trimmed(colour: str, at: tuple[int, int]) -> None:
    image = as_jpeg(canvas_with(scene((160, 150)), at, (640, 480), colour))
    *_, content = Layout(image).contents()
    assert close(content, (at[0], at[1], at[0] + 160, at[1] + 150), 17)  # blocks of JPEG's colours


def test_borders_within_borders_are_trimmed_one_by_one_behind_an_outline() -> None:
    inner = canvas_with(scene((200, 200)), (150, 60), (500, 400), "black")
    image = canvas_with(inner, (100, 40), (640, 480), "white")
    image.paste("red", (0, 0, 640, 2))
    image.paste("red", (0, 0, 2, 480))
    outer, content = Layout(image).contents()
    assert close(outer, (100, 40, 600, 440))
    assert close(content, (250, 100, 450, 300))


def test_one_colour_throughout_is_blank_and_has_no_content() -> None:
    for size in [(300, 200), (20_000, 20), (5, 400)]:
        layout = Layout(Image.new("RGB", size, "pink"))
        assert layout.is_blank() == (min(size) >= 16)
        assert list(layout.contents()) == []
    assert not Layout(canvas_with(scene((30, 30)), (9, 9), (300, 200), "pink")).is_blank()


@pytest.mark.parametrize("gutter", [0, 2, 12])
@pytest.mark.parametrize(("columns", "rows"), [(3, 3), (4, 4), (3, 1), (1, 5)])
def test_panels_are_found_with_and_without_gutters(columns: int, rows: int, gutter: int) -> None:
    image, boxes = sheet(columns, rows, gutter)
    layout = Layout(as_jpeg(image, 90))
    panels, count = layout.panels(layout.whole)
    assert count >= len(boxes)
    for box in boxes:
        assert any(close(box, panel, gutter + 5) for panel in panels), box


def test_rows_of_a_comic_are_cut_each_for_itself() -> None:
    image = Image.new("RGB", (800, 1000), "white")
    boxes = []
    for row, widths in enumerate([(370, 370), (200, 540), (240, 240, 240)]):
        left = 20
        for number, width in enumerate(widths):
            box = left, 20 + row * 325, left + width, 325 + row * 325
            image.paste(scene((width, 305), seed=7 * row + number), box[:2])
            boxes.append(tuple(map(float, box)))
            left += width + 20
    layout = Layout(image)
    panels, _ = layout.panels(layout.whole)
    for box in boxes:
        assert any(close(box, panel, 26) for panel in panels), box


def test_more_panels_than_are_looked_at_are_counted() -> None:
    image, _ = sheet(6, 6, 8)
    layout = Layout(image)
    panels, count = layout.panels(layout.whole)
    assert count == 36
    assert len(panels) == 36 > MOST_PANELS


def test_what_is_no_sheet_has_no_panels() -> None:
    text = Image.new("RGB", (600, 800), "white")
    for line in range(40):  # lines of text are blank between, and too low for panels
        text.paste("black", (40, 20 + 19 * line, 560 - 31 * (line % 7), 31 + 19 * line))
    horizon = scene((640, 480))
    horizon.paste("lightblue", (0, 0, 640, 230))
    two, _ = sheet(2, 2, 10)  # large enough to be seen in the whole
    for image in (text, horizon, two, scene((640, 480), 3), scene((480, 640), 4)):
        layout = Layout(image)
        assert layout.panels(layout.whole) == ([], 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (15, 15), (17, 3), (40, 40)])
def test_tiny_and_thin_images_are_laid_out_too(size: tuple[int, int]) -> None:
    layout = Layout(scene(size))
    layout.is_blank()
    list(layout.contents())
    layout.panels(layout.whole)


def test_a_glance_is_enough_for_photographs_and_misses_no_sheet_and_no_border() -> None:
    def small(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((GLANCE, GLANCE), Image.Resampling.BILINEAR))

    photographs = [scene((640, 480), seed) for seed in range(20)]
    assert {glance(small(image)) for image in photographs} == {Glance(borders=False, panels=False)}
    picture = photographs[0].resize((200, 150))
    for columns, rows, gutter in [(3, 3, 0), (4, 4, 2), (3, 1, 12), (1, 5, 12), (8, 8, 6)]:
        assert glance(small(sheet(columns, rows, gutter)[0])).panels
    for other in (
        *(canvas_with(picture, at, (640, 480), "navy") for at in [(0, 0), (200, 150), (440, 330)]),
        canvas_with(photographs[0].resize((640, 200)), (0, 0), (640, 480), "navy"),
        canvas_with(
            canvas_with(picture, (90, 60), (540, 400), "red"), (50, 40), (640, 480), "navy"
        ),
    ):
        assert glance(small(other)).borders


def test_a_glance_tells_a_horizon_from_a_gutter() -> None:
    # Brighter to the right and to the bottom; a darker sky above a part of the ground.
    ground = np.empty((1000, 900, 3), np.uint8)
    ground[:] = np.linspace(60, 190, 900, dtype=np.uint8)[:, np.newaxis]
    ground += np.linspace(0, 60, 1000, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    ground[:430, :320] -= 50
    small = np.asarray(Image.fromarray(ground).resize((GLANCE, GLANCE), Image.Resampling.BOX))
    assert not glance(small).panels
    with_gutter = ground.copy()
    with_gutter[427:433] = 255  # thinner than a line of the small copy
    small = np.asarray(Image.fromarray(with_gutter).resize((GLANCE, GLANCE), Image.Resampling.BOX))
    assert glance(small).panels
