"""What a finished run still has to say on stderr: what failed it, whatever `--quiet` leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moderate.cli import exit_codes
from moderate.cli.messages import say, say_error, say_item

if TYPE_CHECKING:
    from moderate.cli.exit_codes import Decided
    from moderate.run.summary import Summary

_MANY_ERRORS = 0.5
"""A larger share of rows with an error is worth a warning."""


def list_findings(decided: Decided, fail_on: str) -> None:
    """Name the first images at or above `fail_on`: the worst decision first, then in input order.

    As JSON, there is an event `finding` for each of these images, and before them an event
    `findings` with how many there are in all. Findings that the baseline has are not among them.
    """
    failing = exit_codes.failing(fail_on)
    count = exit_codes.failing_count(decided, fail_on)
    if not count:
        return
    worst_first = [finding for each in reversed(failing) for finding in decided.findings[each]]
    listed = worst_first[: decided.max_listed]
    images = "1 image" if count == 1 else f"{count:,} images"
    text = f"{images} at or above --fail-on {fail_on}"
    if len(listed) < count:
        which = f"the first {len(listed)}" if listed else "none listed"
        text = f"{text} ({which}; --max-listed lists more)"
    say("warning", "findings", f"{text}{':' if listed else ''}", count=count, listed=len(listed))
    for found in listed:
        say_item(
            "finding",
            f"{found.decision.value:6}  {found.path}: {found.reasons}",
            path=found.path,
            decision=found.decision.value,
            reasons=found.reasons,
        )


def report_errors(summary: Summary, max_error_rate: float) -> None:
    """Say what makes the run a failure; else warn where more than half of the rows are errors."""
    if not (summary.rows or summary.left_out or summary.may_be_empty):
        where = summary.highlights.named_inputs()
        text = f"there are no images in {where}; nothing was scored"
        if summary.skipped:  # hidden files alone
            text += "; only hidden files, which --hidden walks"
        say("warning", "no_images", text)
    problems = exit_codes.problems(summary, max_error_rate)
    for event, message in problems:
        say_error(event, message)
    if not problems and summary.error_rate > _MANY_ERRORS:
        say(
            "warning",
            "many_errors",
            f"{summary.errors:,} of {summary.rows:,} rows are errors ({summary.error_rate:.1%}), "
            f"mostly {summary.error_codes.most_common(1)[0][0]}; --max-error-rate makes that a "
            "failure",
        )
