"""From a batch that was scored to the outcome of each of its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from moderate.decode.batches import Batch, Entry, Item
from moderate.run.highest import NOT_SCORED, ScoredImage, highest
from moderate.types import ErrorCode, ImageFacts

if TYPE_CHECKING:
    from moderate.classify.classifier import Scored

# Errors that the same bytes give every time. The others may be this machine's, or this moment's.
LASTING = frozenset(
    {
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.TOO_MANY_PIXELS,
        ErrorCode.TOO_MANY_SCANS,
        ErrorCode.TRUNCATED,
        ErrorCode.CORRUPT_IMAGE,
    }
)


def scored_entries(
    batch: Batch[Item],
    scored: Sequence[Scored],
    labels: Sequence[str],
    levels: Sequence[str] = (),
) -> Iterator[tuple[Entry[Item], ScoredImage]]:
    """Each image of a batch with its scores; scored are those of `batch.pixels`, in its order.

    levels are the labels of rating levels; see `highest`.
    """
    decoded = sum(isinstance(entry.outcome, ImageFacts) for entry in batch.entries)
    # The first parts of all images come first, then the further ones: see `Batch.pixels`.
    first, further = iter(scored[:decoded]), iter(scored[decoded:])
    for entry in batch.entries:
        # Drawn before anything can go wrong, so that the next image gets its own scores.
        of_image = NOT_SCORED
        if isinstance(entry.outcome, ImageFacts):
            parts = [next(first), *islice(further, len(entry.more))]
            of_image = highest(parts, entry.parts, labels, levels)
        yield entry, of_image


def merged_facts(known: ImageFacts, decoded: ImageFacts) -> ImageFacts:
    """What was known of a file before decoding, with what decoding showed."""
    return replace(
        known,
        width=decoded.width,
        height=decoded.height,
        frames=decoded.frames,
        frames_scored=decoded.frames_scored,
        unseen=decoded.unseen,
        embedded=decoded.embedded,
        pdq=decoded.pdq,
        warnings=(*known.warnings, *decoded.warnings),
    )
