"""What came of deciding again: the counts of a scan's summary, and what changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from moderate.report.plain import markdown, print_tables
from moderate.report.tables import Table, headline, share
from moderate.report.tables import tables as summary_tables
from moderate.report.terminal import safe_text
from moderate.results.atomic import write_atomic
from moderate.results.remote import target_name
from moderate.run.summary import as_json as summary_json
from moderate.text import printable
from moderate.types import Decision

if TYPE_CHECKING:
    from moderate.analysis.decide import Redecided

# What only the run that scored the images can know.
_OF_THE_RUN = ("skipped", "skipped_by_reason", "origins", "cost")


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


def transitions_json(changes: Any) -> dict[str, dict[str, int]]:
    """The same as JSON values: before, then now."""
    return {
        before.value: {
            after.value: int(changes[row, column]) for column, after in enumerate(Decision)
        }
        for row, before in enumerate(Decision)
    }


def changed(changes: Any) -> int:
    """How many rows have another decision than before."""
    return int(changes.sum() - changes.trace())


def tables(made: Redecided) -> Iterator[Table]:
    """The counts as tables of text."""
    yield from summary_tables(made.summary)
    yield transitions(made.changes)


def closing(made: Redecided) -> Iterator[str]:
    """What the decisions were made of, and notes."""
    facts, before = made.facts, made.before
    yield f"source: {printable(made.source)} ({facts['decided_from'][:12]})"
    yield f"weights: {_named(before, 'weights')}"
    yield f"policy: {_named(facts, 'policy')}, before {_named(before, 'policy')}"
    if run := before.get("run_id"):
        yield f"run: {printable(run)}, moderate {printable(before.get('version', '-'))}"
    yield f"speed: {made.summary.seconds:.1f} s"
    yield from (f"note: {note}" for note in notes(made))


def notes(made: Redecided) -> list[str]:
    """Sentences that belong under every form of it."""
    return [*made.notes, *made.summary.all_notes()]


def title_line(made: Redecided) -> str:
    """How many rows there are, and how many changed."""
    rows = made.summary.rows
    number = changed(made.changes)
    return f"{headline(made.summary)}; {number} decisions changed ({share(number, rows)})"


def as_json(made: Redecided) -> dict[str, Any]:
    """All of it as JSON values, with the keys of a scan's summary as far as they are known."""
    whole = {k: v for k, v in summary_json(made.summary).items() if k not in _OF_THE_RUN}
    return whole | {
        "audit": made.facts,
        "source": made.source,
        "policy_before": {
            "name": made.before.get("policy"),
            "sha256": made.before.get("policy_sha256"),
        },
        "changed": changed(made.changes),
        "transitions": transitions_json(made.changes),
        "notes": notes(made),
        "throughput": {"seconds": round(made.summary.seconds, 3)},
    }


def to_json(made: Redecided) -> str:
    """All of it as JSON text."""
    return json.dumps(as_json(made), indent=2, ensure_ascii=False) + "\n"


def to_markdown(made: Redecided) -> str:
    """All of it as Markdown."""
    shown = list(tables(made)), list(closing(made))
    return markdown("moderate: decided again", title_line(made), *shown)


def show(made: Redecided, stream: IO[str]) -> None:
    """Print all of it."""
    out = print_tables(list(tables(made)), stream)
    out.print(safe_text(title_line(made), "bold"))
    for line in closing(made):
        out.print(safe_text(line, "yellow" if line.startswith("note:") else ""))


FORMATS: dict[str, Callable[[Redecided], str]] = {".json": to_json, ".md": to_markdown}


def write_summary(made: Redecided, target: str) -> None:
    """Write it to a file; the suffix decides the format. Raises OutputError."""
    write_report(target, FORMATS[os.path.splitext(target_name(target))[1].lower()](made))


def write_report(target: str, text: str) -> None:
    """A text to a file or an object, whole or not at all. Raises OutputError."""
    write_atomic(target, text.encode("utf-8", "backslashreplace"))


def _named(facts: Any, what: str) -> str:
    name, digest = facts.get(what), facts.get(f"{what}_sha256")
    return f"{printable(name)} ({printable(digest or '-')[:12]})" if name else "not recorded"
