"""What people decided, read back from results of `moderate decide --decisions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moderate.arrow import python_values
from moderate.errors import InputError
from moderate.results.read import Results
from moderate.tables.lines import file_name
from moderate.text import one_line
from moderate.types import Decision

FINAL_COLUMNS = ("final_decision", "decided_by", "decided_at")
"""What results get for each row that a person decided on; null in all others."""

DECIDED_BY = "decided by "
"""What the reason of a decision by people starts with."""

_UNSURE = " (unsure)"
_DECISIONS = frozenset(decision.value for decision in Decision)


def has_final(results: Results) -> bool:
    """Whether the rows have decisions of people, by their columns and audit facts.

    A scan carries columns of its list, and they may have these names: those are not decisions on
    its rows, and its facts name no journal. Without facts, the columns count, since to pass over
    what people decided is worse.
    """
    of_people = not results.facts or "decisions_sha256" in results.facts
    return set(FINAL_COLUMNS) <= set(results.carried) and of_people


@dataclass(frozen=True, slots=True)
class FinalDecision:
    """What people decided on a row, who they are and when the last of them did, as text."""

    decision: str
    by: str
    at: str


def final_of(results: Results, row: Mapping[str, Any]) -> FinalDecision | None:
    """What people decided on one row of results; None where nobody has. Raises InputError."""
    if not has_final(results) or not (final := row["final_decision"]):
        return None
    by, at = (str(row[name] or "") for name in FINAL_COLUMNS[1:])
    return FinalDecision(_checked(results, final), by or "people", at)


def columns_of_final(results: Results) -> tuple[str, ...]:
    """The carried columns that `decided` needs; none where nobody has decided."""
    return FINAL_COLUMNS[:2] if has_final(results) else ()


def decided(results: Results, own: Mapping[str, Any], carried: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a part of the rows, with the final decisions in place of the machine's.

    carried has `columns_of_final`. Reasons, if they are among the columns, name who decided: first
    where people changed a decision, last where they confirmed it. Raises InputError for what is no
    decision.
    """
    columns = dict(own)
    if not carried:
        return columns
    import pyarrow as pa

    finals, names = (python_values(carried[name]) for name in FINAL_COLUMNS[:2])
    decisions = own["decision"].to_pylist()
    reasons = own["reasons"].to_pylist() if "reasons" in own else None
    for index, (final, by) in enumerate(zip(finals, names, strict=True)):
        if not final:
            continue
        if reasons is not None:
            reasons[index] = _reasons(by, reasons[index], changed=final != decisions[index])
        decisions[index] = _checked(results, final)
    columns["decision"] = pa.array(decisions, pa.string())
    if reasons is not None:
        columns["reasons"] = pa.array(reasons, pa.string())
    return columns


def decided_rows(results: Results) -> Iterator[dict[str, Any]]:
    """The rows as `Results.rows` has them, but decided as `decided` says. Raises InputError."""
    return (row_as_decided(results, row) for row in results.rows())


def row_as_decided(results: Results, row: dict[str, Any]) -> dict[str, Any]:
    """One row of `decided_rows`. Raises InputError."""
    if not has_final(results) or not (final := row["final_decision"]):
        return row
    changed = final != row["decision"]
    reasons = _reasons(row["decided_by"], row["reasons"], changed=changed)
    return {**row, "decision": _checked(results, final), "reasons": reasons}


def _reasons(by: Any, machine: str | None, *, changed: bool) -> str | None:
    # Names are joined as reasons are: here they are one reason. Who was unsure decided nothing.
    names = [name for name in str(by or "people").split("; ") if not name.endswith(_UNSURE)]
    if not names:
        return machine
    people = DECIDED_BY + ", ".join(names)
    if not machine:
        return people
    return f"{people}; {machine}" if changed else f"{machine}; {people}"


def _checked(results: Results, decision: Any) -> str:
    if decision not in _DECISIONS:
        raise InputError(
            f"{file_name(results.path)}: final_decision {one_line(str(decision), 40)!r} is none of "
            f"{', '.join(each.value for each in Decision)}"
        )
    return str(decision)
