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
