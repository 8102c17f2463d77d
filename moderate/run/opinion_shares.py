"""How many rows had a second opinion in earlier runs, for a look ahead at the next one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from moderate.errors import StateError
from moderate.run.interface import Job, Second
from moderate.state.database import UnavailableError
from moderate.state.ledger import Ledger, RunRecord, RunStatus

log = logging.getLogger(__name__)

_MOST_RUNS = 500  # that are looked at


@dataclass(frozen=True, slots=True)
class OpinionShare:
    """A second opinion of a policy, and the share of rows, 0.0 to 1.0, that had it.

    share and run are those of the newest run with the same weights and the same band; None where
    there is none.
    """

    second: Second
    share: float | None = None
    run: str | None = None


def opinion_shares(ledger: Ledger | None, job: Job) -> tuple[OpinionShare, ...]:
    """The second opinions of a job, in the policy's order, as far as earlier runs tell of them."""
    runs: Sequence[RunRecord] = ()
    if ledger and job.second:
        try:
            runs = [run for run in ledger.runs(_MOST_RUNS) if _is_like(run, job)]
        except (UnavailableError, StateError) as error:
            log.debug("no look at earlier runs: %s", error)
    return tuple(_of(second, runs) for second in job.second)


def _is_like(run: RunRecord, job: Job) -> bool:
    same = run.facts.get("weights_sha256") == job.bundle.sha256
    return same and run.status is RunStatus.COMPLETED


def _of(second: Second, runs: Sequence[RunRecord]) -> OpinionShare:
    opinion = second.opinion
    wanted = (second.bundle.sha256, opinion.lower, opinion.upper)
    for run in runs:
        for each in run.counts.get("second_opinions") or ():
            try:
                known = (each["weights_sha256"], each["from"], each["to"])
                rows, whole = int(each["rows"]), int(run.counts["rows"])
            except (KeyError, TypeError, ValueError):
                continue
            if known == wanted and 0 <= rows <= whole and whole:
                return OpinionShare(second, rows / whole, run.id)
    return OpinionShare(second)
