"""Parts of an image: what a decoder may report of them, and how reasons name them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moderate.decode.batches import Batch, BatchRing, Entry
from moderate.decode.image import Undecoded
from moderate.decode.parts import MOST_PARTS, DecodeOptions, Part, checked_parts
from moderate.decode.resize import PixelSpec
from moderate.types import ErrorCode, ImageFacts

SPECS = (PixelSpec(4, 6), PixelSpec(2, 2, antialias=False))


@pytest.mark.parametrize(
    ("part", "place"),
    [
        (Part(), ""),
        (Part(0, 0), "frame 1, 0.0 s"),
        (Part(6, 449), "frame 7, 0.4 s"),
        (Part(1), "picture 2"),
        (Part(0, None, (0, 0, 100, 100)), "the whole picture"),
        (Part(2, 100, (0, 25, 33, 100)), "frame 3, 0.1 s, 0 to 33 % across and 25 to 100 % down"),
    ],
)
def test_a_part_is_named_by_its_frame_and_box(part: Part, place: str) -> None:
    assert part.place == place


def test_parts_come_back_as_they_were_reported() -> None:
    parts = (Part(), Part(3, 120, (0, 0, 50, 100)))
    assert checked_parts([[p.frame, p.milliseconds, p.box] for p in parts]) == parts


@pytest.mark.parametrize(
    "values",
    [
        [],
        [[0, None, None]] * (MOST_PARTS + 1),
        [[0, None]],
        [[-1, None, None]],
        [[0.5, None, None]],
        [[True, None, None]],
        [[0, -1, None]],
        [[0, 10**30, None]],
        [["0", None, None]],
        [[0, None, [0, 0, 100]]],
        [[0, None, [0, 0, 100, 101]]],
        [[0, None, "0000"]],
        None,
    ],
)
def test_what_no_honest_decoder_reports_is_refused(values: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        checked_parts(values)


@pytest.mark.parametrize(
    ("frames", "most"), [("first", 1), ("auto", 16), ("all", MOST_PARTS), (3, 3), (999, MOST_PARTS)]
)
def test_how_many_frames_are_scored(frames: Any, most: int) -> None:
    assert DecodeOptions(frames).most_frames == most


def test_a_batch_has_first_parts_first_and_leaves_out_what_was_not_decoded() -> None:
    handed_over: list[Batch[int]] = []
    ring: BatchRing[int] = BatchRing(SPECS, 4, handed_over.append)

    def settle(number: int, parts: int) -> None:
        entry = Entry(number, number)
        batch, index = ring.add(entry)
        pixels = tuple(
            np.stack([np.full(spec.shape, 10 * number + part, spec.dtype) for part in range(5)])
            for spec in SPECS
        )
        batch.write(index, tuple(Part(part) for part in range(parts)), pixels)
        pixels[0][:] = 255  # the decoder's memory is written over by its next image
        lost = Undecoded(ErrorCode.DECODER_CRASHED, "it died after its answer", ImageFacts())
        entry.outcome = lost if number == 1 else ImageFacts()
        ring.settle(batch)

    for number, parts in enumerate((1, 3, 2, 3)):
        settle(number, parts)
    (batch,) = handed_over
    for array, spec in zip(batch.pixels(), SPECS, strict=True):
        assert array.shape == (6, *spec.shape)
        assert array.dtype == spec.dtype
        assert array[:, 0, 0, 0].tolist() == [0, 20, 30, 21, 31, 32]

    ring.release(batch)
    settle(4, 5)  # as many further parts as the batch has places: it takes no more images
    assert [len(each.entries) for each in handed_over] == [4, 1]
