"""Further parts show what a model's own view hides, and what no part shows is said."""

from __future__ import annotations

import io
import itertools
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.decode import pixels as colours
from moderate.decode import views as module
from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.layout import Box
from moderate.decode.parts import MOST_PARTS, DecodeOptions, Looked
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec, resize
from moderate.decode.views import MOST_TILES, look, tiles, unseen_share
from moderate.testcards import draw_card
from moderate.types import ImageFacts, Limits, Warn
from tests.decode.test_layout import canvas_with, sheet
from tests.support.pictures import encode, exif_block, palette_scene, scene

SQUASH = PixelSpec(96, 96)
CROP = PixelSpec(96, 96, "crop", 0.875)
FLOAT = PixelSpec(96, 96, antialias=False)
AUTO = DecodeOptions()


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def card(size: tuple[int, int] | int = 400) -> Image.Image:
    return draw_card("nudity", "block", 3, size)


def shows(looked: Looked, picture: Image.Image, place: int = 0, spec: PixelSpec = SQUASH) -> bool:
    """Whether a part shows this picture, and hardly anything else."""
    expected = resize(picture, PixelSpec(spec.height, spec.width)).astype(float)
    apart = [np.abs(each[place].astype(float) - expected).mean() for each in looked.pixels]
    return min(apart) < 14


def decoded(data: bytes, spec: PixelSpec = SQUASH, options: DecodeOptions = AUTO) -> Decoded:
    outcome = decode(data, (spec,), Limits(), options)
    assert isinstance(outcome, Decoded), outcome
    return outcome


# --- what is not seen


def test_the_unseen_share_is_exact() -> None:
    assert unseen_share((SQUASH,), (), (640, 480)) == 0
    plain = PixelSpec(96, 96, "crop")
    assert unseen_share((plain,), (), (1200, 400)) == pytest.approx(2 / 3, abs=1e-3)
    assert unseen_share((CROP,), (), (480, 480)) == pytest.approx(1 - (96 / 109) ** 2)
    # A wide and a tall view of a square image: all but four corners.
    wide, tall = PixelSpec(48, 96, "crop"), PixelSpec(96, 48, "crop")
    both = unseen_share((wide, tall), ((0, 1),), (400, 400))
    assert both == pytest.approx(0.25)
    assert unseen_share((wide, tall), ((0,), (0, 1)), (400, 400)) == pytest.approx(0.5)
    # A model that sees all helps the categories that it feeds, and no others.
    assert unseen_share((plain, SQUASH), ((0, 1), (1,)), (1200, 400)) == 0
    assert unseen_share((plain, SQUASH), ((0, 1), (0,)), (1200, 400)) == pytest.approx(2 / 3, 1e-3)
    assert unseen_share((plain, SQUASH), (), (1200, 400)) == pytest.approx(2 / 3, 1e-3)


def test_the_share_of_boxes_is_that_of_pixels() -> None:
    rng = random.Random(5)
    for _ in range(20):
        boxes: list[Box] = []
        mask = np.zeros((60, 90), bool)
        for _ in range(rng.randrange(6)):
            left, right = sorted(rng.sample(range(91), 2))
            top, bottom = sorted(rng.sample(range(61), 2))
            boxes.append((left, top, right, bottom))
            mask[top:bottom, left:right] = True
        mask[:, 15:75] = True  # what the model sees
        share = unseen_share((PixelSpec(60, 60, "crop"),), (), (90, 60), boxes)
        assert share == pytest.approx(1 - mask.mean())


def test_a_crop_that_leaves_much_out_gets_the_whole_and_one_that_does_not_is_alone() -> None:
    look_at = scene((480, 400))
    alone = look(look_at, (CROP,), DecodeOptions(seen_by=((0,),)), (480, 400))
    assert alone.boxes[0] is None
    assert alone.boxes == [None, (0, 0, 100, 100)]
    assert alone.unseen == 0
    little = look(scene((420, 400)), (PixelSpec(96, 96, "crop"),), AUTO)
    assert little.boxes == [None]
    assert little.unseen == pytest.approx(20 / 420, abs=0.01)
    one = look(look_at, (CROP,), DecodeOptions(views="1"))
    assert one.boxes == [None]
    assert one.unseen == pytest.approx(0.36, abs=0.02)
    data = encode(look_at, "PNG")
    outcome = decoded(data, CROP, DecodeOptions(views="1"))
    assert Warn.PARTLY_SEEN in outcome.facts.warnings
    unseen = outcome.facts.unseen
    assert unseen == np.float32(0.3496)
    assert Warn.PARTLY_SEEN not in decoded(data, CROP).facts.warnings


@pytest.mark.parametrize("views", ["auto", "1", "3", "tiles"])
@pytest.mark.parametrize("spec", [SQUASH, CROP, FLOAT])
def test_the_first_part_is_what_it_would_be_alone(views: Any, spec: PixelSpec) -> None:
    for size in [(320, 240), (900, 120)]:
        picture = scene(size)
        looked = look(picture, (spec,), DecodeOptions(views=views))
        assert looked.boxes[0] is None
        assert np.array_equal(looked.pixels[0][0], resize(picture, spec))
        assert len(looked.boxes) == len(looked.pixels) <= MOST_PARTS


@pytest.mark.parametrize("spec", [CROP, PixelSpec(224, 224, "crop", 0.875, "bicubic"), FLOAT])
def test_the_whole_is_resized_once_and_only_from_the_picture(
    monkeypatch: pytest.MonkeyPatch, spec: PixelSpec
) -> None:
    picture, sizes = scene((640, 480)), []

    def counted(image: Image.Image, *args: Any) -> Any:
        sizes.append(image.size)
        return resize(image, *args)

    monkeypatch.setattr(module, "resize", counted)
    looked = look(picture, (spec, SQUASH), DecodeOptions(seen_by=((0,), (1,))))
    whole = (0.0, 0.0, 640.0, 480.0)
    parts = 2 if spec is not FLOAT else 1
    assert len(looked.boxes) == parts
    for place, each in enumerate((spec, SQUASH)):
        expected = resize(picture, each, picture.size, whole)
        assert np.array_equal(looked.pixels[-1][place], expected)
    assert sizes == [picture.size] * (1 + parts), "none again for the model that is shown all"


# --- which parts


@pytest.mark.parametrize("size", [(320, 240), (500, 375), (240, 426), (300, 300), (640, 360)])
def test_an_ordinary_picture_has_one_part(size: tuple[int, int]) -> None:
    for seed in range(8):
        assert look(scene(size, seed), (SQUASH,), AUTO).boxes == [None]


def test_three_views_are_the_whole_and_its_ends() -> None:
    three = DecodeOptions(views="3")
    wide = look(scene((400, 300)), (CROP,), three)
    assert wide.boxes == [None, (0, 0, 100, 100), (0, 0, 75, 100), (25, 0, 100, 100)]
    tall = look(scene((300, 400)), (CROP,), three)
    assert tall.boxes[2:] == [(0, 0, 100, 75), (0, 25, 100, 100)]
    square = look(scene((300, 300)), (CROP,), three)
    assert square.boxes[2:] == [(0, 0, 100, 75), (0, 25, 100, 100)]
    assert wide.unseen == tall.unseen == square.unseen == 0


def test_tiles_of_an_ordinary_picture_overlap() -> None:
    looked = look(scene((400, 300)), (CROP,), DecodeOptions(views="tiles"))
    assert looked.boxes[1] == (0, 0, 100, 100)
    assert looked.boxes[2:] == [
        (0, 0, 60, 60),
        (40, 0, 100, 60),
        (0, 40, 60, 100),
        (40, 40, 100, 100),
    ]


@pytest.mark.parametrize("ratio", [2, 2.3, 3, 5, 8, 8.5, 9, 12, 16])
def test_anything_as_large_as_the_short_side_is_inside_a_tile(ratio: float) -> None:
    box = (0.0, 0.0, 100 * ratio, 100.0)
    spans = [(left, right) for left, _, right, _ in tiles(box)]
    assert len(spans) <= MOST_TILES
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(100 * ratio)
    for start in np.linspace(0, 100 * (ratio - 1), 50):
        assert any(left <= start + 0.01 and start + 99.99 <= right for left, right in spans)
    assert all(right - left <= 200.01 for left, right in spans)


def test_tiles_lie_alike_from_either_end_and_along_either_side() -> None:
    for ratio in (2.5, 7.3, 20, 80):
        wide = tiles((0.0, 0.0, 100 * ratio, 100.0))
        back = [(100 * ratio - right, 0.0, 100 * ratio - left, 100.0) for left, _, right, _ in wide]
        assert np.allclose(back[::-1], wide)
        tall = tiles((0.0, 0.0, 100.0, 100 * ratio))
        assert np.allclose([(b, a, d, c) for a, b, c, d in tall], wide)
        assert all(one[2] >= other[0] - 1e-6 for one, other in itertools.pairwise(wide))


@pytest.mark.parametrize("spec", [SQUASH, CROP, FLOAT])
@pytest.mark.parametrize("left", [0, 130, 400, 800])
def test_a_card_anywhere_in_a_panorama_is_shown(left: int, spec: PixelSpec) -> None:
    for size, at in [((1200, 400), (left, 0)), ((400, 1200), (0, left))]:
        image = scene(size)
        image.paste(card(), at)
        looked = look(image, (spec,), AUTO)
        assert looked.unseen == 0
        # The tile is longer than the card: the card is inside it.
        boxes = [box for box in looked.boxes if box]
        along = 0 if size[0] > size[1] else 1
        spans = [(box[along] * 12, box[along + 2] * 12) for box in boxes]
        assert any(
            start - 7 <= left and left + 400 <= stop + 7 and stop - start < 720
            for start, stop in spans
        )


def test_what_is_too_long_to_be_looked_at_goes_to_review() -> None:
    for size in [(3000, 60), (60, 3000)]:
        for views in ("auto", "3", "tiles"):
            looked = look(scene(size), (SQUASH,), DecodeOptions(views=views))
            assert looked.unseen == pytest.approx(1 - 15 / 49)
    assert look(scene((960, 60)), (SQUASH,), AUTO).unseen == 0
    blank = look(Image.new("RGB", (3000, 60), "grey"), (SQUASH,), AUTO)
    assert (blank.boxes, blank.unseen) == ([None], 0.0)
    outcome = decoded(encode(scene((3000, 60)), "PNG"))
    assert Warn.PARTLY_SEEN in outcome.facts.warnings


@pytest.mark.parametrize("gutter", [0, 6])
@pytest.mark.parametrize("side", [3, 4])
def test_a_card_in_a_sheet_is_a_part(side: int, gutter: int) -> None:
    image, boxes = sheet(side, side, gutter)
    left, top, right, bottom = map(int, boxes[side + 1])
    hidden = card((right - left, bottom - top))
    image.paste(hidden, (left, top))
    # A panel is shown with the gutter around it, which may be the frame of a picture.
    around = image.crop((left - gutter, top - gutter, right + gutter, bottom + gutter))
    looked = look(image, (SQUASH, CROP), AUTO)
    assert shows(looked, around)
    assert shows(looked, around, 1)


def test_many_panels_get_windows_and_too_many_are_said() -> None:
    image, _ = sheet(6, 6, 6)
    looked = look(image, (SQUASH,), AUTO)
    assert len(looked.boxes) == 17
    assert looked.unseen == 0
    image, _ = sheet(8, 8, 6)
    assert look(image, (SQUASH,), AUTO).unseen == pytest.approx(1 - 36 / 64)


@pytest.mark.parametrize("colour", ["white", "black", "orange"])
@pytest.mark.parametrize("at", [(0, 0), (500, 120), (680, 480)])
def test_a_small_card_on_a_large_canvas_is_a_part(colour: str, at: tuple[int, int]) -> None:
    hidden = card(120)
    image = canvas_with(hidden, at, (800, 600), colour)
    for kind in ("PNG", "JPEG"):
        with Image.open(io.BytesIO(encode(image, kind, quality=80))) as opened:
            looked = look(opened.convert("RGB"), (CROP,), AUTO)
        assert shows(looked, hidden)
        assert looked.unseen == 0


@pytest.mark.parametrize("cells", [7, 9, 14])
def test_a_mosaic_of_one_coloured_cells_hides_nothing(cells: int) -> None:
    colours = np.random.default_rng(cells).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize((320, 240), Image.Resampling.NEAREST)
    assert look(image, (SQUASH,), AUTO).unseen == 0


@pytest.mark.parametrize("spec", [SQUASH, CROP])
def test_a_line_or_a_speck_on_a_canvas_is_no_part(spec: PixelSpec) -> None:
    for box in ((184, 0, 187, 256), (184, 78, 187, 122), (20, 100, 240, 104)):
        image = Image.new("RGB", (256, 256), (240, 240, 240))
        image.paste((190, 190, 190), box)
        looked = look(image, (spec,), AUTO)
        assert looked.boxes == [None]
        assert looked.unseen < 0.25


def test_a_panorama_on_a_canvas_gets_tiles() -> None:
    strip = scene((800, 200), 2)
    strip.paste(card(200), (500, 0))
    image = canvas_with(strip, (0, 300), (800, 800), "white")
    looked = look(image, (SQUASH,), AUTO)
    boxes = [box for box in looked.boxes if box]
    assert boxes[0] == (0, 38, 100, 62)
    assert any(box[0] <= 63 and box[2] >= 87 and box[2] - box[0] < 45 for box in boxes)


# --- files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_views_are_the_same_in_all_orientations(kind: str, orientation: int) -> None:
    # The JPEG is decoded at a reduced scale, and turned when its parts are cut out.
    picture = scene((4200, 1400) if kind == "JPEG" else (600, 200))
    picture.paste(card(picture.height), (0, 0))
    undone = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = colours.upright(picture, undone) if orientation > 1 else picture
    spec = PixelSpec(48, 40, "crop", 0.9)
    options = {"exif": exif_block(orientation)} if orientation > 1 else {}
    turned = decoded(encode(stored, kind, **options), spec)
    plain = decoded(encode(picture, kind), spec)
    # Tiles come in the order in which they lie in the stored picture.
    mine, wanted = (
        sorted(
            ((part.box or (), each[0]) for part, each in zip(d.parts, d_pixels, strict=True)),
            key=lambda pair: pair[0],
        )
        for d, d_pixels in ((d, [d.pixels, *d.more]) for d in (turned, plain))
    )
    assert [box for box, _ in mine] == [box for box, _ in wanted]
    assert len(mine) == 4
    assert turned.facts.unseen == plain.facts.unseen
    for (_, one), (_, other) in zip(mine, wanted, strict=True):
        assert np.abs(one.astype(int) - other).max() <= (0 if kind == "PNG" else 36)


def test_a_small_part_of_a_large_jpeg_is_decoded_in_detail() -> None:
    hidden = card(260)
    image = canvas_with(hidden, (2600, 300), (4000, 3000), "white")
    outcome = decoded(encode(image, "JPEG", quality=90))
    part = outcome.more[0][0].astype(float)
    expected = resize(hidden, SQUASH).astype(float)
    # At the scale of the whole, the part would have 33 pixels for the model's 96.
    assert np.abs(part - expected).mean() < 8


def test_frames_share_the_room_for_parts() -> None:
    frames = [palette_scene((800, 100), seed) for seed in range(20)]
    looked = look(frames[0], (SQUASH,), AUTO, most=3)
    assert len(looked.boxes) == 3
    assert looked.unseen == pytest.approx(1 - 2 / 7)
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    outcome = decoded(data)
    assert sum(part.frame == 0 for part in outcome.parts) == 3
    assert len(outcome.parts) <= MOST_PARTS


def test_everything_is_loaded_before_the_sandbox_closes() -> None:
    image, _ = sheet(3, 3, 6)
    files = [
        encode(image, "PNG"),
        encode(scene((1200, 300)), "JPEG"),
        encode(canvas_with(scene((90, 90)), (300, 200), (800, 600), "white"), "JPEG"),
        encode(scene((640, 480)), "JPEG"),
    ]
    counts = []
    with DecoderPool[int]((SQUASH, FLOAT), Limits(), 1, 8) as pool:
        for batch in pool.run(enumerate(files)):
            counts += [(e.outcome, len(e.parts)) for e in batch.entries]  # type: ignore[union-attr]
            pool.release(batch)  # type: ignore[arg-type]
    assert all(isinstance(outcome, ImageFacts) for outcome, _ in counts), counts
    assert [count > 1 for _, count in counts] == [True, True, True, False]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (60_000, 20), (7, 2000)])
@pytest.mark.parametrize("views", ["auto", "3", "tiles"])
def test_thin_pictures_have_parts_like_others(size: tuple[int, int], views: Any) -> None:
    for kind in ("PNG", "JPEG"):
        outcome = decoded(encode(scene(size), kind), CROP, DecodeOptions(views=views))
        assert len(outcome.parts) == 1 + len(outcome.more) <= MOST_PARTS
        if max(size) >= 3000:
            assert Warn.PARTLY_SEEN in outcome.facts.warnings
