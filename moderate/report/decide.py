"""What came of deciding again: the counts of a scan's summary, and what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from moderate.analysis.decide import Redecided
from moderate.policy.load import shown_name
from moderate.report.model import Report, Table, counted, sentences, share
from moderate.report.summary import headline, tables
from moderate.review.verdicts import People
from moderate.run.highlights import Highlights
from moderate.run.summary import as_json
from moderate.text import printable
from moderate.types import Decision

MOST_NAMED = 10
"""Reviewers that the report names."""

# What only the run that scored the images can know.
_OF_THE_RUN = (
    *("skipped", "skipped_by_reason", "origins", "cost"),
    *Highlights().as_json(),
)


def report(redecided: Redecided) -> Report:
    """The whole of it."""
    rows, changed = redecided.summary.rows, _changed(redecided.changes)
    return Report(
        "moderate: decided again",
        (
            *tables(redecided.summary),
            transitions(redecided.changes),
            sentences(list(_closing(redecided))),
        ),
        _data(redecided),
        f"{headline(redecided.summary)}; {changed} decisions changed ({share(changed, rows)})",
    )


def transitions(changes: Any, before: str = "before", after: str = "now") -> Table:
    """Counts of rows by severity on two sides as a table, with each count's share of all rows."""
    whole = int(changes.sum())
    rows = []
    for severity, decision in enumerate(Decision):
        counts = [int(count) for count in changes[severity]]
        cells = (f"{count} ({share(count, whole)})" if count else "0" for count in counts)
        rows.append((decision.value, *cells, str(sum(counts))))
    rows.append(("in all", *(str(int(count)) for count in changes.sum(axis=0)), str(whole)))
    title = f"Decisions: {before} (rows) and {after} (columns)"
    return Table(title, ("", *(decision.value for decision in Decision), "in all"), tuple(rows))


def transitions_data(changes: Any) -> dict[str, dict[str, int]]:
    """The same as JSON values: before, then now."""
    return {
        before.value: {
            after.value: int(changes[row, column]) for column, after in enumerate(Decision)
        }
        for row, before in enumerate(Decision)
    }


def _changed(changes: Any) -> int:
    """How many rows have another decision than before."""
    return int(changes.sum() - changes.trace())


def _closing(redecided: Redecided) -> Iterator[str]:
    """Where scores and decisions come from, and notes."""
    facts, before = redecided.facts, redecided.before
    yield f"source: {redecided.source} ({facts['decided_from'][:12]})"
    yield f"weights: {_named(before, 'weights')}"
    yield f"policy: {_named(facts, 'policy')}; before: {_named(before, 'policy')}"
    if run := before.get("run_id"):
        yield f"run: {run}, moderate {before.get('version', '-')}"
    if people := redecided.people:
        yield f"people: {_people(people)}"
    yield f"speed: {redecided.summary.seconds:.1f} s"
    yield from (f"note: {note}" for note in _notes(redecided))


def _people(people: People) -> str:
    """Who decided on how many rows, in one line."""
    names = [printable(name) for name in people.reviewers[:MOST_NAMED]]
    more = len(people.reviewers) - len(names)
    who = ", ".join([*names, *([f"{more} more"] if more else [])]) or "nobody"
    parts = [f"{counted(people.rows, 'row')} decided by {who}"]
    if people.copies:
        parts.append(f"{people.copies:,} of them copies of another")
    if people.unsure:
        parts.append(f"{people.unsure:,} unsure, where the machine's decision stays")
    if people.disputed:
        parts.append(f"{people.disputed:,} disputed, where the strictest decision holds")
    return "; ".join(parts)


def _notes(redecided: Redecided) -> list[str]:
    return [*redecided.notes, *redecided.summary.all_notes()]


def _data(redecided: Redecided) -> dict[str, Any]:
    """All of it, with the keys of a scan's summary as far as they are known."""
    whole = {k: v for k, v in as_json(redecided.summary).items() if k not in _OF_THE_RUN}
    return whole | {
        "audit": redecided.facts,
        "source": redecided.source,
        "policy_before": {
            "name": redecided.before.get("policy"),
            "sha256": redecided.before.get("policy_sha256"),
        },
        "people": None if redecided.people is None else asdict(redecided.people),
        "changed": _changed(redecided.changes),
        "transitions": transitions_data(redecided.changes),
        "notes": _notes(redecided),
        "throughput": {"seconds": round(redecided.summary.seconds, 3)},
    }


def _named(facts: Mapping[str, str], what: str) -> str:
    name, digest = facts.get(what), facts.get(f"{what}_sha256")
    if name and what == "policy":
        name = shown_name(name, facts.get("policy_file"))
    return f"{name} ({printable(digest or '-')[:12]})" if name else "not recorded"
