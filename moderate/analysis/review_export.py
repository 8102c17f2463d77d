"""What people decided, as lists for a policy and as labels for evaluation."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np

from moderate.analysis.sample import header
from moderate.results.read import Results
from moderate.review.verdicts import Decisions, Verdict, decided_rows
from moderate.tables.csv import guarded
from moderate.types import CATEGORIES, Status

CHOSEN_BY = "review"
"""What the labels say of how their images were chosen."""


@dataclass(frozen=True, slots=True)
class Label:
    """What people answered about one image; a category that nobody answered for is missing.

    chosen_for is the machine's decision, which says which queue the image was in. probability is
    how likely it was to be there, None where a journal does not know it.
    """

    path: str
    sha256: str | None
    labels: Mapping[str, bool]
    chosen_for: str
    probability: float | None


class Listed(NamedTuple):
    """An image by its SHA-256, and who decided on it."""

    sha256: str
    by: str


@dataclass(frozen=True, slots=True)
class Export:
    """What people decided on the rows of one results file.

    cleared are images that all who decided approved, blocked those that one of them blocked.
    undecided are images that somebody was unsure of and nobody blocked, unnamed rows without a
    digest.
    """

    cleared: tuple[Listed, ...]
    blocked: tuple[Listed, ...]
    labels: tuple[Label, ...]
    undecided: int
    unnamed: int

    @property
    def labelled(self) -> int:
        """Images with an answer for a category."""
        return sum(bool(label.labels) for label in self.labels)


def export(results: Results, decisions: Decisions) -> Export:
    """What is to be exported. Raises InputError for decisions on other results."""
    labels: list[Label] = []
    for first, final, columns in decided_rows(results, decisions, ["status", *results.categories]):
        looked_at = set(final.verdicts) - final.copies
        labels += _labels(first, columns, decisions, looked_at, results.categories)
    cleared, blocked = [], []
    undecided = 0
    for digest, verdict in decisions.by_digest.items():
        answers = {entry.decision for entry in verdict.entries}
        if "block" in answers:
            blocked.append(Listed(digest, verdict.by))
        elif answers == {"approve"}:
            cleared.append(Listed(digest, verdict.by))
        else:
            undecided += 1
    unnamed = sum(
        all(entry.sha256 is None for entry in verdict.entries)
        for verdict in decisions.by_row.values()
    )
    return Export(
        tuple(sorted(cleared)),
        tuple(sorted(blocked)),
        tuple(_with_probabilities(labels)),
        undecided,
        unnamed,
    )


def cleared_csv(images: Iterable[Listed], reason: str, expires: date) -> str:
    """A file for the `ignore_file` of a policy."""
    day = expires.isoformat()
    rows = ((each.sha256, guarded(reason), day, guarded(each.by)) for each in images)
    return _csv(("sha256", "reason", "expires", "by"), rows)


def blocked_csv(images: Iterable[Listed], reason: str) -> str:
    """A file for the `block_file` of a policy, whose entries do not expire."""
    rows = ((each.sha256, guarded(reason), guarded(each.by)) for each in images)
    return _csv(("sha256", "reason", "by"), rows)


def labels_csv(labels: Iterable[Label], own: Sequence[str] = ()) -> str:
    """Labels as a filled template of `moderate sample`; own are the results' own categories."""
    return _csv(header(own), (_cells(label, own) for label in labels))


def _cells(label: Label, own: Sequence[str]) -> Sequence[str]:
    answers = {True: "1", False: "0", None: ""}
    return (
        guarded(label.path),
        guarded(label.sha256 or ""),
        *(answers[label.labels.get(category)] for category in (*CATEGORIES, *own)),
        CHOSEN_BY,
        label.chosen_for,
        "" if label.probability is None else repr(label.probability),
    )


def _labels(
    first: int,
    columns: Mapping[str, Any],
    decisions: Decisions,
    indices: Iterable[int],
    categories: Sequence[str],
) -> Iterator[Label]:
    """The labels of rows with scores, in their order; without scores nothing can be evaluated."""
    scores = np.stack([columns[name].to_numpy(zero_copy_only=False) for name in categories])
    unscored = np.asarray(np.isnan(scores.astype(np.float32)).all(axis=0))
    for index in sorted(indices):
        if columns["status"][index].as_py() != Status.OK or unscored[index]:
            continue
        verdict = decisions.by_row[first + index]
        yield Label(
            columns["path"][index].as_py(),
            columns["sha256"][index].as_py(),
            verdict.labels,
            verdict.entries[0].machine_decision,
            _probability(verdict),
        )


def _probability(verdict: Verdict) -> float | None:
    """The largest of all who saw the image; None where one of them is not known."""
    known = [each.inclusion_probability for each in verdict.entries]
    return None if None in known else max(chance for chance in known if chance is not None)


def _with_probabilities(labels: Sequence[Label]) -> Iterator[Label]:
    """One probability for all images that the machine decided alike.

    Samples of one file are nested: of 100 and then of 200 approved images, the first are among the
    second, so that 200 images have the chance of the larger sample.
    """
    largest: dict[str, float] = defaultdict(float)
    for label in labels:
        if label.probability is not None:
            largest[label.chosen_for] = max(largest[label.chosen_for], label.probability)
    for label in labels:
        chance = None if label.probability is None else largest[label.chosen_for]
        yield Label(label.path, label.sha256, label.labels, label.chosen_for, chance)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
