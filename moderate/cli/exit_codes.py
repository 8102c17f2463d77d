"""What the process says when it ends; a contract that scripts rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moderate.types import Decision

if TYPE_CHECKING:
    from moderate.run.summary import Summary

DONE = 0
FOUND = 1
ERROR = 2
# After a signal the code is 128 + its number: see `moderate.stopping.exit_code`.

MEANINGS: dict[int, str] = {
    DONE: "done, and nothing at or above `--fail-on` (which is `never` by default)",
    FOUND: "done, and something was found: a decision at or above `--fail-on` (`scan`, `decide`), "
    "a missed gate (`eval`), a changed decision under `--fail-on-change` (`diff`), "
    "drift under `--fail-on-drift` (`report`)",
    ERROR: "an error: wrong usage, configuration or weights, no input found, a run that could not "
    "be finished, a failed check (`doctor`, `policy check`, `weights verify`), or more error rows "
    "than `--max-error-rate`",
    129: "stopped by SIGHUP, as when the terminal is closed; not under `nohup`",
    130: "stopped by SIGINT, as from Ctrl-C",
    143: "stopped by SIGTERM",
}
"""One line per exit code, for the reference page."""


def of_scan(summary: Summary, fail_on: str, max_error_rate: float) -> int:
    """The code of a finished scan: an error wins over a finding.

    fail_on is `never`, `review` or `block`; a decision at or above it is a finding.
    """
    if summary.error_rate > max_error_rate:
        return ERROR
    if fail_on == "never":
        return DONE
    least = Decision(fail_on).severity
    reached = any(summary.decisions[d.value] for d in Decision if d.severity >= least)
    return FOUND if reached else DONE
