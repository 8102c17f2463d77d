"""What the process says when it ends; a contract that scripts rely on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from moderate.types import Decision

if TYPE_CHECKING:
    from moderate.run.input_counts import InputCounts
    from moderate.run.summary import Finding, Summary

DONE = 0
FOUND = 1
ERROR = 2
PIPE_CLOSED = 141
# After a signal the code is 128 + its number: see `moderate.stopping.exit_code`.

MEANINGS: dict[int, str] = {
    DONE: "done, and nothing at or above `--fail-on` (which is `never` by default)",
    FOUND: "done, and something was found: a decision at or above `--fail-on` that the "
    "`--baseline` does not have (`scan`, `merge`, `decide`, `report`), "
    "a missed gate (`eval`), a changed decision under `--fail-on-change` (`diff`), "
    "drift under `--fail-on-drift` (`report`), a file that is not applied (`apply`)",
    ERROR: "an error: wrong usage, configuration or weights, no input found, an input that could "
    "not be read to its end, no image that could be scored, a run that could not be finished, a "
    "failed check (`doctor`, `policy check`, `weights verify`), or more error rows than "
    "`--max-error-rate`",
    129: "stopped by SIGHUP, as when the terminal is closed; not under `nohup`",
    130: "stopped by SIGINT, as from Ctrl-C",
    PIPE_CLOSED: "standard output was closed by its reader, as `head` does, before all was printed",
    143: "stopped by SIGTERM",
}
"""One line per exit code, for the reference page."""


class Decided(Protocol):
    """Decisions of many rows, counted; see `Summary`."""

    decisions: Counter[str]
    unchanged: Counter[str]
    findings: dict[Decision, list[Finding]]
    max_listed: int


def of_scan(summary: Summary, fail_on: str, max_error_rate: float) -> int:
    """The code of a finished scan: an error wins over a finding."""
    return ERROR if problems(summary, max_error_rate) else of_decisions(summary, fail_on)


def of_decisions(decided: Decided, fail_on: str) -> int:
    """The code that decisions alone give."""
    return FOUND if failing_count(decided, fail_on) else DONE


def failing_count(decided: Decided, fail_on: str) -> int:
    """How many rows are at or above `fail_on`, without those that the baseline has."""
    return sum(decided.decisions[d.value] - decided.unchanged[d.value] for d in failing(fail_on))


def failing(fail_on: str) -> list[Decision]:
    """The decisions that are a finding, mildest first. fail_on is `never`, `review` or `block`."""
    if fail_on == "never":
        return []
    least = Decision(fail_on).severity
    return [decision for decision in Decision if decision.severity >= least]


def problems(summary: InputCounts, max_error_rate: float) -> list[tuple[str, str]]:
    """What makes a finished scan an error: an event's name, and a line that says it.

    A run without any row is none: all images may be left out by `--only`.
    """
    if summary.unreadable_count:
        from moderate.run.input_counts import unreadable_text

        text = unreadable_text(summary)
        return [("input_unreadable", text[0].lower() + text[1:])]
    found = []
    if summary.rows and not summary.scored and not summary.left_out_scored:
        codes = ", ".join(f"{n} {code}" for code, n in summary.error_codes.most_common(3))
        rows = "the only row is an error" if summary.rows == 1 else "all rows are errors"
        found.append(("nothing_scored", f"no image could be scored: {rows} ({codes})"))
    elif summary.error_rate > max_error_rate:
        message = (
            f"{summary.errors} of {summary.rows} rows are errors "
            f"({summary.error_rate:.1%}), over --max-error-rate {max_error_rate:.1%}"
        )
        found.append(("max_error_rate", message))
    return found
