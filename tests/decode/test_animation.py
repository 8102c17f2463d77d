"""Animations and files of several pictures: what is drawn, what is chosen, what is left out."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.cli.scan_values import parse_frames
from moderate.decode import animation, gif_frames
from moderate.decode.animation import OtherFrames
from moderate.decode.canvas import Budget, Shown
from moderate.decode.containers import read_png
from moderate.decode.frame_choice import COVERED, FARTHEST, SAME, choose, distance, small_copy
from moderate.decode.gif_frames import GifFrames, with_surroundings
from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.multi_picture import MOST_PICTURES, listed_pictures
from moderate.decode.parts import DEFAULT_OPTIONS, MOST_FRAMES, MOST_FRAMES_AUTO, DecodeOptions
from moderate.decode.png_frames import PngFrames, first_of_animation
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.decode.seek_frames import SeekFrames
from moderate.errors import UsageError
from moderate.run.options import ScanOptions
from moderate.testcards import draw_card
from moderate.types import ImageFacts, Limits, Warn
from tests.support.animations import (
    apng,
    apng_frame,
    drawn,
    gif,
    gif_frame,
    image_data,
    saved,
)
from tests.support.pictures import encode, exif_block, palette_scene, png_chunk, scene

SPEC = PixelSpec(48, 48)
SIZE = (96, 96)
CLEAN = draw_card(None, "clean", 1, SIZE)
CARD = draw_card("nudity", "block", 1, SIZE)
AMPLE = 1 << 40
RED, GREEN, BLUE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
KINDS = ("GIF", "WEBP", "PNG")


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def decoded(data: bytes, frames: Any = "auto", limits: Limits | None = None) -> Decoded:
    # One part of each frame, so that the parts of an outcome are its frames.
    options = DecodeOptions(frames=frames, views="1")
    outcome = decode(data, (SPEC,), limits or Limits(), options)
    assert isinstance(outcome, Decoded), outcome
    return outcome


def pictures(outcome: Decoded) -> list[np.ndarray]:
    """What the models are given of each part."""
    return [each[0].astype(np.int16) for each in (outcome.pixels, *outcome.more)]


def shows(outcome: Decoded, image: Image.Image) -> list[int]:
    """The frames of the parts that show the image."""
    wanted = np.asarray(image.convert("RGB").resize((48, 48), Image.Resampling.BILINEAR))
    return [
        part.frame
        for part, picture in zip(outcome.parts, pictures(outcome), strict=True)
        if np.abs(picture - wanted).mean() < 12
    ]


def is_flagged(outcome: Decoded) -> bool:
    return Warn.PARTLY_SCORED in outcome.facts.warnings


def moved(image: Image.Image, count: int) -> list[Image.Image]:
    """The image, a little further to the left each time."""
    return [
        image.transform(image.size, Image.Transform.AFFINE, (1, 0, place / 10, 0, 1, 0))
        for place in range(count)
    ]


def noisy(image: Image.Image, count: int, amplitude: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    values = np.asarray(image).astype(np.int16)
    frames = [values + rng.integers(-amplitude, amplitude + 1, values.shape) for _ in range(count)]
    return [Image.fromarray(frame.clip(0, 255).astype(np.uint8)) for frame in frames]


# Evasions: a card behind a harmless first frame ---------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [1, 20, 39])
def test_a_card_is_scored_wherever_it_is(kind: str, place: int) -> None:
    frames = moved(CLEAN, 42)
    frames[place] = CARD
    frames = frames[: place + 2 if place == 39 else place + 1]
    outcome = decoded(saved(kind, frames, duration=50))
    (frame,) = shows(outcome, CARD)
    part = next(part for part in outcome.parts if part.frame == frame)
    assert part.milliseconds == 50 * place
    assert part.place == f"frame {frame + 1}, {place / 20:.1f} s"
    assert outcome.parts[0].place == "frame 1, 0.0 s"
    assert outcome.facts.frames_scored == len(outcome.parts) <= MOST_FRAMES_AUTO
    assert not is_flagged(outcome)


@pytest.mark.parametrize("kind", ["MPO", "HEIF"])
def test_a_card_is_scored_among_pictures_without_times(kind: str) -> None:
    outcome = decoded(saved(kind, [CLEAN, draw_card(None, "clean", 2, SIZE), CARD]))
    assert shows(outcome, CARD) == [2]
    assert [part.place for part in outcome.parts] == ["", "picture 2", "picture 3"]
    assert outcome.facts.frames == outcome.facts.frames_scored == 3
    assert not is_flagged(outcome)


def test_a_card_is_scored_that_comes_before_the_primary_image_of_a_heic() -> None:
    outcome = decoded(saved("HEIF", [CARD, CLEAN], primary_index=1))
    assert shows(outcome, CLEAN) == [0]
    assert shows(outcome, CARD) == [1]


def test_an_avif_sequence_is_walked_through() -> None:
    data = saved("AVIF", [CLEAN, *moved(CLEAN, 20), CARD], duration=40)
    source = SeekFrames(lambda: Image.open(io.BytesIO(data)), 22, 1, timed=True)
    others = OtherFrames(source, CLEAN, 22, DEFAULT_OPTIONS, Limits())
    frames = list(others.frames())
    assert (frames[-1].index, frames[-1].milliseconds) == (21, 840)
    assert distance(small_copy(frames[-1].image), small_copy(CARD)) < COVERED
    assert not others.left_out


def test_frames_are_cropped_as_the_first_is() -> None:
    wide = [Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")]
    wide[1].paste((0, 255, 0), (48, 0, 64, 48))
    data = saved("WEBP", wide, lossless=True)
    source = SeekFrames(lambda: Image.open(io.BytesIO(data)), 2, 1, timed=True, crop=(48, 48))
    first = Image.new("RGB", (48, 48), "red")
    (frame,) = OtherFrames(source, first, 2, DEFAULT_OPTIONS, Limits()).frames()
    assert frame.image.size == (48, 48)
    assert frame.image.getcolors() == [(48 * 48, (0, 0, 255))]


def test_the_sandboxed_decoder_scores_animations_of_every_kind() -> None:
    files = [saved(kind, [CLEAN, CARD]) for kind in (*KINDS, "MPO", "HEIF")]
    files.append(saved("PNG", [CARD, CLEAN], default_image=True))
    with DecoderPool[int]((SPEC,), Limits(decode_timeout=30), 1, 16) as decoders:
        for batch in decoders.run(enumerate(files)):
            for entry in batch.entries:
                assert isinstance(entry.outcome, ImageFacts), entry.outcome
                assert entry.outcome.frames_scored == 2
                assert Warn.PARTLY_SCORED not in entry.outcome.warnings
            decoders.release(batch)


# Choice ------------------------------------------------------------------------------------------


def test_frames_that_show_the_same_are_scored_once() -> None:
    data = saved("WEBP", [CLEAN, *noisy(CLEAN, 19, 3)], duration=50, lossless=True)
    outcome = decoded(data)
    assert outcome.facts.frames == 20
    assert outcome.facts.frames_scored == 1
    assert not is_flagged(outcome)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_noise_is_not_left_out(kind: str) -> None:
    assert not is_flagged(decoded(saved(kind, noisy(scene(SIZE), 20, 8), duration=50)))


def test_more_different_frames_than_are_scored_are_said() -> None:
    data = saved("PNG", [scene(SIZE, seed) for seed in range(30)], duration=50)
    outcome = decoded(data)
    assert outcome.facts.frames_scored == MOST_FRAMES_AUTO
    assert is_flagged(outcome)
    frames = [part.frame for part in outcome.parts]
    assert frames == sorted(frames)
    assert {0, 29} <= set(frames)
    assert not is_flagged(decoded(data, "all"))
    assert decoded(data, "all").facts.frames_scored == 30
    assert decoded(data, 5).facts.frames_scored == 5
    assert is_flagged(decoded(data, 5))
    assert decoded(data, "first").facts.frames_scored == 1
    assert is_flagged(decoded(data, "first"))


def test_a_change_in_one_place_is_a_difference() -> None:
    changed = CLEAN.copy()
    changed.paste((0, 0, 0), (60, 60, 66, 66))
    assert distance(small_copy(CLEAN), small_copy(changed)) > COVERED


def test_outlines_without_a_change_of_brightness_are_a_difference() -> None:
    flat = Image.new("RGB", (512, 512), (128, 128, 128))
    fine = np.indices((512, 512)).sum(0) // 5 % 2 * 120 + 68
    striped = Image.fromarray(fine.astype(np.uint8)).convert("RGB")
    assert distance(small_copy(flat), small_copy(striped)) > COVERED


def test_a_change_of_colour_is_a_difference() -> None:
    red, green = (Image.new("RGB", SIZE, colour) for colour in ((200, 60, 60), (60, 131, 60)))
    assert distance(small_copy(red), small_copy(green)) > COVERED


def test_pictures_of_different_shapes_are_different() -> None:
    assert distance(small_copy(CLEAN), small_copy(CLEAN.resize((96, 48)))) == FARTHEST


def test_the_choice_takes_the_ends_and_what_differs_most() -> None:
    greys = [Image.new("RGB", SIZE, (value,) * 3) for value in (0, 20, 40, 250, 60, 80, 0, 30)]
    small = [small_copy(grey) for grey in greys]
    assert choose(small, range(8), 2, SAME) == ([0, 7], pytest.approx(220, abs=1))
    assert choose(small, range(8), 3, SAME)[0] == [0, 3, 7]
    assert choose(small, range(8), 16, SAME) == ([0, 1, 2, 3, 4, 5, 7], 0)


def test_evenly_in_time_means_what_is_on_display() -> None:
    greys = [Image.new("RGB", SIZE, (value,) * 3) for value in (0, 10, 20, 30, 40, 50)]
    small = [small_copy(grey) for grey in greys]
    # The third frame is on display for nearly the whole time.
    chosen, _ = choose(small, [0, 1, 2, 997, 998, 999], 5, SAME)
    assert 2 in chosen


@pytest.mark.parametrize("text", ["0", "-1", "49", "some", "", "1.5", "²"])
def test_other_choices_of_frames_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"use first, auto, all or 1 to 48") as caught:
        parse_frames(text)
    assert "\n" not in str(caught.value)


def test_choices_of_frames() -> None:
    assert parse_frames("first") == "first"
    assert parse_frames("7") == 7
    assert parse_frames(str(MOST_FRAMES)) == MOST_FRAMES


@pytest.mark.parametrize("value", [0, True, 49, "7", None, 1.0])
def test_other_choices_of_frames_are_refused_from_python(value: Any) -> None:
    import moderate

    with pytest.raises(UsageError, match="frames: use first, auto, all"):
        moderate.scan(options=ScanOptions(frames=value))


# GIF: each as Chromium 156 draws it ---------------------------------------------------------------

FULL = gif_frame(0, 0, 4, 4, 0, disposal=1)
GIFS: dict[str, tuple[bytes, list[str]]] = {
    "first frame smaller than its canvas": (
        gif(4, 4, gif_frame(1, 1, 2, 2, 0), gif_frame(3, 3, 1, 1, 1)),
        ["..../.RR./.RR./....", "..../.RR./.RR./...G"],
    ),
    "first frame larger than its canvas": (
        gif(2, 2, gif_frame(0, 0, 3, 3, 0), gif_frame(0, 0, 1, 1, 1)),
        ["RRR/RRR/RRR", "GRR/RRR/RRR"],
    ),
    "later frame larger than the canvas": (
        gif(4, 4, FULL, gif_frame(2, 2, 6, 6, 1)),
        ["RRRR/RRRR/RRRR/RRRR", "RRRR/RRRR/RRGG/RRGG"],
    ),
    "later frame outside": (
        gif(2, 2, gif_frame(0, 0, 2, 2, 0), gif_frame(5, 5, 2, 2, 1)),
        ["RR/RR", "RR/RR"],
    ),
    "cleared, and once only": (
        gif(
            4,
            4,
            FULL,
            gif_frame(1, 1, 2, 2, 1, disposal=2),
            gif_frame(0, 0, 1, 1, 2),
            gif_frame(3, 3, 1, 1, 2),
        ),
        [
            "RRRR/RRRR/RRRR/RRRR",
            "RRRR/RGGR/RGGR/RRRR",
            "BRRR/R..R/R..R/RRRR",
            "BRRR/R..R/R..R/RRRB",
        ],
    ),
    "restored, the first to nothing": (
        gif(
            4,
            4,
            gif_frame(0, 0, 4, 4, 0, disposal=3),
            gif_frame(1, 1, 2, 2, 1, disposal=3),
            gif_frame(0, 0, 1, 1, 2),
        ),
        ["RRRR/RRRR/RRRR/RRRR", "..../.GG./.GG./....", "B.../..../..../...."],
    ),
    "disposal 4 restores, 5 keeps": (
        gif(
            4,
            4,
            FULL,
            gif_frame(1, 1, 2, 2, 1, disposal=4),
            gif_frame(0, 0, 1, 1, 2, disposal=5),
            gif_frame(3, 3, 1, 1, 2),
        ),
        [
            "RRRR/RRRR/RRRR/RRRR",
            "RRRR/RGGR/RGGR/RRRR",
            "BRRR/RRRR/RRRR/RRRR",
            "BRRR/RRRR/RRRR/RRRB",
        ],
    ),
    "transparent over": (
        gif(2, 2, gif_frame(0, 0, 2, 2, 0), gif_frame(0, 0, 2, 2, [1, 2, 2, 1], transparent=1)),
        ["RR/RR", "RB/BR"],
    ),
    "a control block is for one frame": (
        gif(
            2,
            2,
            gif_frame(0, 0, 2, 2, 0),
            gif_frame(0, 0, 1, 1, 1, disposal=2, transparent=2),
            gif_frame(1, 1, 1, 1, 2, control=False),
            gif_frame(1, 0, 1, 1, 2, control=False),
        ),
        ["RR/RR", "GR/RR", ".R/RB", ".B/RB"],
    ),
    "a frame of no size": (
        gif(2, 2, gif_frame(0, 0, 2, 2, 0), gif_frame(0, 0, 0, 0, []), gif_frame(0, 0, 1, 1, 1)),
        ["RR/RR", "RR/RR", "GR/RR"],
    ),
}


@pytest.mark.parametrize("name", GIFS)
def test_gifs_are_drawn_as_by_browsers(name: str) -> None:
    data, expected = GIFS[name]
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        first = with_surroundings(image, data)
    source = GifFrames(data, first.size)
    later = [shown and drawn(shown.image) for shown in source.walk(Budget(AMPLE, AMPLE, AMPLE))]
    assert [drawn(first), *later] == expected


def test_the_surroundings_of_a_first_frame_are_white_not_of_a_palette() -> None:
    data = gif(48, 48, gif_frame(16, 16, 16, 16, 0), background=2)
    (picture,) = pictures(decoded(data))
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[24, 24].tolist() == [255, 0, 0]
    assert Warn.ALPHA_AMBIGUOUS in decoded(data).facts.warnings


def test_the_times_of_frames_are_those_of_browsers() -> None:
    delays = [0, 1, 2, 3, 100, 5]
    frames = [gif_frame(0, 0, 8, 8, place % 3, delay=each) for place, each in enumerate(delays)]
    outcome = decoded(gif(8, 8, *frames), "all")
    source = GifFrames(gif(8, 8, *frames), (8, 8))
    times = [shown and shown.milliseconds for shown in source.walk(Budget(99, AMPLE, AMPLE))]
    assert times == [100, 200, 220, 250, 1250]
    assert [part.milliseconds for part in outcome.parts] == [0, 100, 200]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry with every frame of a GIF that is decoded by itself."""
    count: list[int] = []
    original = gif_frames._decoded

    def decode_one(data: bytes, frame: gif_frames.GifFrame) -> Image.Image:
        count.append(frame.width * frame.height)
        return original(data, frame)

    monkeypatch.setattr(gif_frames, "_decoded", decode_one)
    return count


def test_a_gif_of_200000_frames_is_walked_through_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = gif(
        64, 64, gif_frame(0, 0, 64, 64, 0), gif_frame(0, 0, 1, 1, 1, control=False) * 200_000
    )
    count = counted(monkeypatch)
    assert is_flagged(decoded(data, "first"))
    assert not count
    outcome = decoded(data)
    assert outcome.facts.frames == 1000
    assert is_flagged(outcome)
    assert len(count) <= 2 * animation.MOST_WALKED


def test_the_pixels_of_a_walk_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [gif_frame(0, 0, 100, 100, place % 3) for place in range(40)]
    count = counted(monkeypatch)
    data = gif(100, 100, *frames)
    assert is_flagged(decoded(data, limits=Limits(decode_timeout=0.1)))
    # A frame and the canvas it is drawn on count; there are two walks.
    assert sum(count) <= animation.PIXELS_PER_SECOND * 0.1
    assert len(count) < 80


def test_a_frame_that_claims_to_be_huge_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    count = counted(monkeypatch)
    huge = struct.pack("<B4HB", 0x2C, 0, 0, 60_000, 60_000, 0) + b"\x02\x01\x44\x00"
    assert is_flagged(decoded(gif(8, 8, gif_frame(0, 0, 8, 8, 0), huge)))
    assert sum(count) == 64


def test_a_walk_ends_with_the_time_that_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderate.decode.animation.time.process_time", iter(range(99)).__next__)
    frames = [gif_frame(0, 0, 8, 8, place % 3) for place in range(40)]
    outcome = decoded(gif(8, 8, *frames), limits=Limits(decode_timeout=20))
    assert is_flagged(outcome)
    assert outcome.facts.frames_scored is not None
    assert 1 <= outcome.facts.frames_scored <= 3


# APNG --------------------------------------------------------------------------------------------


def test_apng_is_disposed_of_and_blended_by_its_specification() -> None:
    half = (0, 0, 255, 128)
    data = apng(
        3,
        1,
        7,
        apng_frame(0, (0, 0, 3, 1), RED, in_image=True),
        apng_frame(1, (0, 0, 1, 1), half, blend=1, disposal=2),  # over red; restored
        apng_frame(3, (1, 0, 1, 1), half, blend=0, disposal=1),  # in place of red; cleared
        apng_frame(5, (2, 0, 1, 1), GREEN, disposal=1),
        apng_frame(7, (0, 0, 1, 1), BLUE),
        apng_frame(9, (0, 0, 3, 1), (0, 0, 0, 0), blend=1),
        apng_frame(11, (0, 0, 3, 1), (0, 0, 0, 0), blend=0),
    )
    red, green, blue, none = list(RED), list(GREEN), list(BLUE), [0, 0, 0, 0]
    expected = [
        [[127, 0, 128, 255], red, red],
        [red, list(half), red],
        [red, none, green],
        [blue, none, none],
        [blue, none, none],
        [none, none, none],
    ]
    found = []
    for shown in PngFrames(data, read_png(data), 1).walk(Budget(AMPLE, AMPLE, AMPLE)):
        assert shown is not None
        found.append(np.asarray(shown.image)[0].tolist())
    assert found == expected


def test_the_animation_is_shown_rather_than_a_default_image_that_is_not_part_of_it() -> None:
    data = saved("PNG", [CARD, CLEAN, CLEAN.rotate(90)], default_image=True, duration=100)
    outcome = decoded(data)
    assert outcome.parts[0].frame in shows(outcome, CLEAN)
    assert shows(outcome, CARD) == [2], "viewers that know no animations show it"
    assert outcome.parts[-1].place == "picture 3"
    assert outcome.facts.frames_scored == 3
    assert not is_flagged(outcome)
    assert is_flagged(decoded(data, "first"))


def test_an_animation_that_begins_with_a_part_of_its_canvas() -> None:
    data = apng(
        2,
        2,
        1,
        png_chunk(b"IDAT", image_data(2, 2, GREEN)),
        apng_frame(0, (1, 1, 1, 1), RED),
    )
    first = first_of_animation(data, read_png(data))
    assert first is not None
    assert drawn(first) == "../.R"
    assert decoded(data).facts.frames_scored == 2


@pytest.mark.parametrize("claimed", [1, 3, 5])
def test_an_apng_that_miscounts_its_frames(claimed: int) -> None:
    frames = [apng_frame(0, (0, 0, 4, 4), RED, in_image=True)]
    frames += [apng_frame(1, (0, 0, 4, 4), GREEN), apng_frame(3, (0, 0, 4, 4), BLUE)]
    outcome = decoded(apng(4, 4, claimed, *frames))
    assert outcome.facts.frames_scored == 3
    assert is_flagged(outcome) is (claimed == 5)


def test_apng_of_every_mode() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        if mode == "I;16":
            values = [np.full((8, 8), value, np.uint16) for value in (0, 65535)]
            frames = [Image.fromarray(value) for value in values]
        else:
            frames = [Image.new("L", (8, 8), value).convert(mode) for value in (0, 255)]
        outcome = decoded(saved("PNG", frames))
        assert [picture.max() for picture in pictures(outcome)] == [0, 255], mode
        assert not is_flagged(outcome)


# Orientation, broken frames ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_frames_are_turned_upright(kind: str) -> None:
    tall = palette_scene((48, 96))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = saved(kind, [Image.new("RGB", (48, 96)), tall], exif=exif_block(6), **options)
    outcome = decoded(data)
    assert (outcome.facts.width, outcome.facts.height) == (96, 48)
    assert shows(outcome, tall.transpose(Image.Transpose.ROTATE_270)) == [1]


def mpo(pictures: Sequence[bytes], **changed: int) -> bytes:
    """JPEGs with an index before the first one's data; offset and size of the last may differ."""
    entries = b""
    index_bytes = 8 + 2 + 12 + 4 + 16 * len(pictures)
    first = len(pictures[0]) + 8 + index_bytes
    at = first
    for place, picture in enumerate(pictures):
        offset, size = (at - 10, len(picture)) if place else (0, first)
        if place == len(pictures) - 1:
            offset, size = changed.get("offset", offset), changed.get("size", size)
        entries += struct.pack("<3I2H", 0, size, offset, 0, 0)
        at += len(picture) if place else 0
    tag = struct.pack("<HHHII", 1, 0xB002, 7, len(entries), 26)
    payload = b"MPF\x00II*\x00" + struct.pack("<I", 8) + tag + bytes(4) + entries
    segment = b"\xff\xe2" + struct.pack(">H", len(payload) + 2) + payload
    return pictures[0][:2] + segment + pictures[0][2:] + b"".join(pictures[1:])


def test_pictures_of_an_mpo_are_turned_by_their_own_orientation() -> None:
    turned = CARD.transpose(Image.Transpose.ROTATE_90)
    second = encode(turned, "JPEG", exif=exif_block(6))
    outcome = decoded(mpo([encode(CLEAN, "JPEG", exif=exif_block(3)), second]))
    assert shows(outcome, CARD) == [1]
    assert shows(outcome, CLEAN.transpose(Image.Transpose.ROTATE_180)) == [0]
    assert Warn.MULTI_PICTURE in outcome.facts.warnings
    assert Warn.ANIMATED not in outcome.facts.warnings


def test_a_preview_of_the_same_picture_is_not_scored_again() -> None:
    large = scene((640, 480))
    outcome = decoded(mpo([encode(large, "JPEG"), encode(large.resize((320, 240)), "JPEG")]))
    assert outcome.facts.frames_scored == 1
    assert not is_flagged(outcome)


def test_a_listed_picture_that_cannot_be_decoded_is_said() -> None:
    clean, card = encode(CLEAN, "JPEG"), encode(CARD, "JPEG")
    for data in (
        mpo([clean, card], offset=30),
        mpo([clean, card], size=len(card) // 2),
        mpo([clean, card[: len(card) // 2]]),
        mpo([clean, b"\x89PNG\r\n\x1a\n"]),
    ):
        outcome = decoded(data)
        assert outcome.facts.frames_scored == 1
        assert is_flagged(outcome)


def test_a_listed_picture_that_is_not_in_the_file_hides_nothing() -> None:
    outcome = decoded(mpo([encode(CLEAN, "JPEG")] * 2, offset=1 << 24))
    assert outcome.facts.frames == 1
    assert Warn.MULTI_PICTURE in outcome.facts.warnings
    assert not is_flagged(outcome)


def test_an_index_of_many_pictures_is_read_within_bounds() -> None:
    tag = struct.pack("<HHHII", 1, 0xB002, 7, 16 * 4000, 26)
    entries = struct.pack("<3I2H", 0, 10, 5, 0, 0) * 4000
    index = b"II*\x00" + struct.pack("<I", 8) + tag + bytes(4) + entries
    pictures = listed_pictures(index, 0, len(index))
    assert len(pictures) == MOST_PICTURES + 1
    assert pictures[-1] == (0, 0)
    for end in range(60):
        listed_pictures(index, 0, end)


def cut_gif() -> bytes:
    return gif(
        4,
        4,
        gif_frame(0, 0, 4, 4, 0),
        gif_frame(0, 0, 4, 4, [1] * 6),
        gif_frame(0, 0, 4, 4, 2),
    )


def test_a_gif_frame_that_lacks_data_is_said_and_the_others_are_scored() -> None:
    outcome = decoded(cut_gif())
    assert [part.frame for part in outcome.parts] == [0, 2]
    assert is_flagged(outcome)


def test_an_apng_frame_that_lacks_rows_is_said() -> None:
    control = struct.pack(">5I2H2B", 1, 4, 4, 0, 0, 1, 10, 0, 0)
    rows = struct.pack(">I", 2) + image_data(4, 2, GREEN)
    broken = png_chunk(b"fcTL", control) + png_chunk(b"fdAT", rows)
    frames = [apng_frame(0, (0, 0, 4, 4), RED, in_image=True), broken]
    outcome = decoded(apng(4, 4, 3, *frames, apng_frame(3, (0, 0, 4, 4), BLUE)))
    assert [part.frame for part in outcome.parts] == [0, 2]
    assert is_flagged(outcome)


def test_a_webp_frame_that_is_broken_is_said() -> None:
    data = bytearray(saved("WEBP", [CLEAN, CARD], duration=50, lossless=True))
    second = data.index(b"ANMF", data.index(b"ANMF") + 4)
    data[second + 90 :] = bytes(len(data) - second - 40)
    outcome = decoded(bytes(data))
    assert outcome.facts.frames_scored == 1
    assert is_flagged(outcome)


def test_no_error_of_a_source_costs_the_first_frame() -> None:
    class Failing:
        timed = True

        def walk(self, budget: Budget) -> Any:
            yield Shown(1, 100, CARD)
            raise MemoryError

    for counted_frames in (2, 100):
        others = OtherFrames(Failing(), CLEAN, counted_frames, DEFAULT_OPTIONS, Limits())
        assert len(list(others.frames())) == (1 if counted_frames == 2 else 0)
        assert others.left_out


def originals() -> list[bytes]:
    tiny = [palette_scene((24, 20), seed) for seed in range(4)]
    animations = [saved(kind, tiny, duration=50) for kind in KINDS]
    return [
        *animations,
        saved("PNG", tiny, default_image=True),
        mpo([encode(image, "JPEG") for image in tiny]),
        cut_gif(),
        apng(4, 4, 2, apng_frame(0, (0, 0, 4, 4), RED, in_image=True)),
    ]


def test_mutated_animations_never_raise() -> None:
    rng = random.Random(7)
    scored = 0
    for original in originals():
        for _ in range(60):
            data = bytearray(original)
            for _ in range(rng.choice((1, 1, 3, 10))):
                data[rng.randrange(len(data))] = rng.choice((0, 1, 255, rng.randrange(256)))
            outcome = decode(bytes(data), (SPEC,), Limits(), DEFAULT_OPTIONS)
            assert isinstance(outcome, Decoded | Undecoded)
            scored += isinstance(outcome, Decoded)
    assert scored > 50
