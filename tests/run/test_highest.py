"""The score of an image is the highest of its parts, and says which part that is."""

from __future__ import annotations

from moderate.classify.classifier import Scored
from moderate.decode.parts import Part
from moderate.places import read_places
from moderate.policy.reasons import placed
from moderate.run.highest import ScoredImage, highest
from moderate.types import UNSCORED, Category, ErrorCode, ImageError

PARTS = (Part(0, 0), Part(6, 400), Part(6, 400, (0, 0, 50, 100)))


def scored(nudity: float, violence: float, *labels: float) -> Scored:
    scores = {**UNSCORED, Category.NUDITY: nudity, Category.VIOLENCE: violence}
    return Scored(scores, labels)


def test_one_part_is_the_image() -> None:
    one = scored(0.5, 0.25, 0.75)
    assert highest([one], PARTS[:1], ["m/a"]) == ScoredImage(one.outcome, (0.75,), "")


def test_each_category_and_label_has_its_highest_part() -> None:
    image = highest(
        [scored(0.1, 0.9, 0.3, 0.2), scored(0.97, 0.9, 0.1, 0.8), scored(0.5, 0.2, 0.2, 0.9)],
        PARTS,
        ["m/a", "m/b; c"],
    )
    expected = {**UNSCORED, Category.NUDITY: 0.97, Category.VIOLENCE: 0.9}
    assert image.outcome == expected
    assert image.labels == (0.3, 0.9)
    places = read_places(image.places)
    assert places == {
        "nudity": "frame 7, 0.4 s",
        "violence": "frame 1, 0.0 s",  # the first of equals
        "label m/a": "frame 1, 0.0 s",
        "label m/b, c": "frame 7, 0.4 s, 0 to 50 % across and 0 to 100 % down",
    }
    reasons = ("nudity 0.97 >= block 0.85", "label m/a 0.30 >= review 0.30 (override x)", "other")
    assert placed(reasons, places) == (
        "nudity 0.97 >= block 0.85 at frame 7, 0.4 s",
        "label m/a 0.30 >= review 0.30 at frame 1, 0.0 s (override x)",
        "other",
    )


def test_a_part_that_could_not_be_scored_is_an_error_of_the_image() -> None:
    error = ImageError(ErrorCode.NON_FINITE_SCORE, "the model gave NaN or infinity")
    image = highest([scored(0.1, 0.1), Scored(error), scored(0.9, 0.9)], PARTS, ())
    assert image.outcome == ImageError(
        ErrorCode.NON_FINITE_SCORE, "frame 7, 0.4 s: the model gave NaN or infinity"
    )
