"""Results with journals of what people decided on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from moderate.results.read import read_results
from moderate.review.journal import Entry, Journal, as_undone
from moderate.types import CATEGORIES
from tests.support.scored import DAY

Answer = tuple[int, str, str]
"""Row, reviewer and decision."""


def write_journal(
    path: Path, results: Path, answers: Sequence[Answer], **more: Mapping[int, Any]
) -> Path:
    """A journal of answers, an hour apart; `undo` takes the reviewer's last on the row back.

    more are values of further fields by row.
    """
    rows = list(read_results(str(results)).rows())
    last: dict[tuple[int, str], Entry] = {}
    journal = Journal(path)
    for hours, (number, reviewer, decision) in enumerate(answers):
        if decision == "undo":
            entry = as_undone(last[number, reviewer])
        else:
            row = rows[number - 1]
            fields: dict[str, Any] = {
                name: values[number] for name, values in more.items() if number in values
            }
            entry = last[number, reviewer] = Entry(
                row=number,
                path=row["path"],
                sha256=row["sha256"],
                reviewer=reviewer,
                machine_decision=row["decision"],
                machine_scores={name.value: row[name.value] for name in CATEGORIES},
                decision=decision,  # type: ignore[arg-type]
                time=DAY + timedelta(hours=hours),
                **fields,
            )
        journal.append(entry)
    journal.close()
    return path
