"""Whether stored results pass a check: their decisions, apart from what a baseline has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from moderate.exports.baseline import Baseline
from moderate.results.final import decided_rows
from moderate.results.read import Results
from moderate.run.summary import Finding
from moderate.types import Decision


@dataclass(slots=True)
class Gate:
    """Decisions counted; unchanged and findings are those of `Summary`."""

    max_listed: int
    decisions: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    findings: dict[Decision, list[Finding]] = field(
        default_factory=lambda: {d: [] for d in Decision if d is not Decision.APPROVE}
    )


def check_results(results: Results, baseline: Baseline | None, max_listed: int) -> Gate:
    """Count the decisions of a results file, people's where there are any. Raises InputError."""
    gate = Gate(max_listed)
    for row in decided_rows(results):
        decision = Decision(row["decision"])
        gate.decisions[decision] += 1
        if decision is Decision.APPROVE:
            continue
        if baseline and baseline.covers(row):
            gate.unchanged[decision] += 1
        elif len(gate.findings[decision]) < max_listed:
            gate.findings[decision].append(Finding(row["path"], decision, row["reasons"] or ""))
    return gate
