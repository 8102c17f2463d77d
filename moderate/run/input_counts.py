"""What counts of inputs say of them: that nothing was there, or that some could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from moderate.native import working_directory_problem
from moderate.run.highlights import Highlights
from moderate.text import printable
from moderate.types import ErrorCode, SkipReason


class InputCounts(Protocol):
    """The counts of a run, or of a look ahead at one; see `moderate.run.summary.Summary`."""

    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def errors(self) -> int: ...  # noqa: D102
    @property
    def scored(self) -> int: ...  # noqa: D102
    @property
    def error_rate(self) -> float: ...  # noqa: D102
    @property
    def error_codes(self) -> Counter[str]: ...  # noqa: D102
    @property
    def error_examples(self) -> Mapping[str, Sequence[str]]: ...  # noqa: D102
    @property
    def skipped(self) -> Counter[str]: ...  # noqa: D102
    @property
    def left_out(self) -> Counter[str]: ...  # noqa: D102
    @property
    def left_out_scored(self) -> int: ...  # noqa: D102
    @property
    def may_be_empty(self) -> bool: ...  # noqa: D102
    @property
    def missing_inputs(self) -> int: ...  # noqa: D102
    @property
    def unreadable(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def unreadable_count(self) -> int: ...  # noqa: D102
    @property
    def input_notes(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def highlights(self) -> Highlights: ...  # noqa: D102


def unreadable_text(counts: InputCounts) -> str:
    """Which inputs could not be read, as a sentence without its full stop."""
    more = counts.unreadable_count - len(counts.unreadable)
    names = "; ".join(counts.unreadable) + (f"; and {more} more" if more else "")
    return f"Some input could not be read, so images may be missing from the rows: {names}"


def nothing_was_there(counts: InputCounts) -> bool:
    """Whether none of the inputs that were named is there, or none of their files is an image.

    Inputs that are there and are empty are fine: nothing was uploaded since yesterday. A folder
    that holds hidden files alone, such as .gitkeep, is as good as empty.
    """
    if counts.rows:
        return counts.rows == counts.missing_inputs
    if working_directory_problem():  # which makes anything in it look empty
        return True
    files = counts.skipped.total() - counts.skipped[SkipReason.HIDDEN.value]
    return files > 0 and not (counts.left_out or counts.may_be_empty)


def nothing_found(counts: InputCounts) -> str:
    """The message for inputs of which that is so."""
    hints = "".join(f"; {note.rstrip('.')}" for note in counts.input_notes)
    return f"no input found: {_what_is_missing(counts)}{hints}"


def _what_is_missing(counts: InputCounts) -> str:
    if counts.rows:
        missing = counts.error_examples[ErrorCode.NOT_FOUND]
        return f"nothing is at {', '.join(map(printable, missing))}"
    if problem := working_directory_problem():
        return problem
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.skipped.items()))
    where = counts.highlights.named_inputs()
    return f"none of {counts.skipped.total()} files in {where} is an image ({reasons})"
