"""Names and worst images under the counts of a run."""

from __future__ import annotations

from moderate.run.highlights import INPUTS_KEPT, SKIPPED_KEPT, WORST_KEPT, Highlights
from moderate.types import (
    UNSCORED,
    Category,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Scores,
    Skipped,
    SkipReason,
)


def row(
    name: str,
    decision: Decision = Decision.APPROVE,
    facts: ImageFacts | None = None,
    duplicate_of: bytes | None = None,
    error: ImageError | None = None,
    **scores: float,
) -> Row:
    known: Scores = {**UNSCORED, **{Category(key): value for key, value in scores.items()}}
    return Row(
        ImageRef(name.encode()),
        facts or ImageFacts(),
        known,
        decision,
        (),
        duplicate_of=duplicate_of,
        error=error,
    )


def test_the_worst_are_the_most_severe_then_the_highest() -> None:
    kept = Highlights()
    for number in range(50):
        kept.count(row(f"fine{number}", nudity=0.01 * number, violence=0.5))
    kept.count(row("high", Decision.REVIEW, suggestive=0.99))
    kept.count(row("blocked", Decision.BLOCK, nudity=0.9, violence=0.2))
    kept.count(row("copy", Decision.BLOCK, duplicate_of=b"./blocked", nudity=0.9))
    kept.count(row("failed", Decision.BLOCK, error=ImageError(ErrorCode.EMPTY_FILE, "empty")))
    kept.count(row("unscored", Decision.BLOCK))
    kept.count(row("as-high", Decision.REVIEW, suggestive=0.99))
    worst = kept.worst
    assert len(worst) == WORST_KEPT
    found = [(each.path, each.category, each.score, each.decision) for each in worst[:4]]
    assert found == [
        ("./blocked", "nudity", 0.9, "block"),
        ("./high", "suggestive", 0.99, "review"),
        ("./as-high", "suggestive", 0.99, "review"),
        ("./fine0", "violence", 0.5, "approve"),
    ]


def test_rows_are_more_than_images() -> None:
    kept = Highlights()
    video = ImageFacts(format="mp4", sha256="ab", frames=2)
    for second in (0, 1):
        kept.count(row(f"a.mp4!/00:00:0{second}.000", facts=ImageFacts(format="mp4"), nudity=0.9))
    kept.count(row("a.mp4", facts=video, nudity=0.9))
    kept.count(row("b.png"))
    kept.count(row("c.png", duplicate_of=b"./b.png"))
    refused = ImageError(ErrorCode.UNSUPPORTED_FORMAT, "a video")
    kept.count(row("d.mp4", facts=ImageFacts(format="mp4"), error=refused))
    assert (kept.images, kept.copies, kept.frames) == (3, 1, 2)
    assert [each.path for each in kept.worst] == ["./a.mp4"]


def test_the_skipped_are_named_and_inputs_are_masked() -> None:
    inputs = ["https://user:secret@host/a.png", *map(str, range(INPUTS_KEPT + 5))]
    kept = Highlights.of(inputs, ["rows.csv"])
    for number in range(10):
        kept.count_skipped(Skipped(f"./{number}.css".encode(), SkipReason.NOT_AN_IMAGE))
    told = kept.as_json()
    assert told["skipped_examples"] == {"not an image": ["./0.css", "./1.css", "./2.css"]}
    assert len(told["skipped_examples"]["not an image"]) == SKIPPED_KEPT
    assert (len(told["inputs"]), told["input_count"]) == (INPUTS_KEPT, INPUTS_KEPT + 6)
    assert "secret" not in str(told)
    assert told["outputs"] == ["rows.csv"]
