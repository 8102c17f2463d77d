"""Rows as the page gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.decode.parts import Part
from moderate.policy.load import load_policy
from moderate.results.read import open_results
from moderate.review.queue import Selection
from moderate.review.rows import MOST_COPIES, read_rows
from moderate.review.shown import shown_row
from moderate.types import CATEGORIES
from tests.support.reviewing import review_row, write_queue
from tests.support.scored import write_results

POLICY = load_policy("balanced").policy


def shown(folder: Path, **changes: Any) -> dict[str, Any]:
    write_queue(folder / "r.jsonl", [review_row("/a.png", b"x", **changes)])
    with open_results(str(folder / "r.jsonl")) as results:
        return shown_row(next(iter(results.rows())), results.own, POLICY, None)


@pytest.mark.parametrize(
    "part",
    [
        Part(),
        Part(box=(0, 0, 100, 100)),
        Part(box=(3, 40, 57, 100)),
        Part(6, 400, None),
        Part(0, 0, (0, 0, 100, 100)),
        Part(2, None, (1, 2, 3, 4)),
    ],
)
def test_places_are_read_as_they_are_written(tmp_path: Path, part: Part) -> None:
    places = {"nudity": part.place} if part.place else {}
    found = shown(tmp_path, places=places)["places"]
    assert [each["text"] for each in found] == ([part.place] if part.place else [])
    for each in found:
        assert each["box"] == (list(part.box) if part.box else None)
        named = part.milliseconds is not None or part.frame
        assert each["frame"] == (part.frame if named else None)


@pytest.mark.parametrize(
    "text",
    ["9 to 3 % across and 0 to 1 % down", "0 to 101 % across and 0 to 9 % down", "frame 0, x"],
)
def test_places_that_make_no_sense_are_text(tmp_path: Path, text: str) -> None:
    (place,) = shown(tmp_path, places={"nudity": text})["places"]
    assert (place["text"], place["box"], place["frame"]) == (text, None, None)


def test_scores_have_the_band_of_the_policy(tmp_path: Path) -> None:
    limits = POLICY.categories[CATEGORIES[0]]
    for score, band in (
        (limits.block, "block"),
        (limits.review, "review"),
        (np.nextafter(np.float32(limits.review), np.float32(0)), "approve"),
    ):
        assert shown(tmp_path, nudity=float(score))["scores"][0]["band"] == band


def test_copies_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    scores = {name: np.full(3, 0.5, np.float32) for name in CATEGORIES}
    path = write_results(tmp_path / "r.csv", scores, copies=(1, 2))
    with open_results(str(path)) as results:
        found = read_rows(results, POLICY, Selection(kind="all")).copies
        assert read_rows(results, POLICY, Selection(kind="errors")).copies == {}
    assert found.keys() == {"./1.jpg", "./2.jpg"}
    assert (found["./1.jpg"].count, found["./1.jpg"].paths) == (1, ["./copy-1.jpg"])
    rows = [review_row(f"/{n}.png", b"", duplicate_of="/a.png") for n in range(MOST_COPIES + 5)]
    rows.append(review_row("/a.png", b""))
    with open_results(str(write_queue(tmp_path / "c.jsonl", rows))) as results:
        copies = read_rows(results, POLICY, Selection()).copies["/a.png"]
    assert (copies.count, len(copies.paths)) == (MOST_COPIES + 5, MOST_COPIES)
