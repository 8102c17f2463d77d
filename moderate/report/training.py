"""A training: what was trained on, how it does on the images held out, and what was installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moderate.analysis.metrics import CONFIDENCE, Measured
from moderate.report.evaluation import cell, measured_json, named_metrics
from moderate.report.model import Fact, Facts, Report, Sentences, Table, counted, sentences
from moderate.text import one_line, printable
from moderate.train.run import POLICY, OfCategory, Training

SCHEMA = 1
"""Of the JSON; a change that breaks a reader raises it."""

_NAME_WIDTH = 19  # of a column, so that two of them and the metrics fit 60 columns

_NOTES = (
    f"review and block are the thresholds of the policy {POLICY}; those of categories of your own "
    "are set in your policy",
    "positives and negatives had the same weight in training: where images have other shares of "
    "them, a score is no probability (ECE)",
    "copies of the same bytes are on one side alone, but similar images may be on both: figures "
    "then look better than they are",
)


def report(training: Training) -> Report:
    """The whole report; a table per category has the head beside its base."""
    return Report(
        "moderate: training",
        (
            Facts(tuple(_facts(training)), label_width=10, space_after=True),
            *_tables(training),
            _closing(training),
        ),
        _data(training),
        f"{training.name}: {', '.join(each.name for each in training.categories)}, trained on the "
        f"features of {training.base}",
        headline_first=True,
    )


def _facts(training: Training) -> Iterator[Fact]:
    yield Fact("labels", printable(training.source))
    yield Fact("base", f"{training.base} {training.base_sha256[:12]}")
    left = training.left_out
    fresh = training.extracted
    known = f"features of {fresh:,} are new" if fresh else "all features were known"
    yield Fact(
        "images",
        f"{training.images:,} with labels, {training.held_out:,} of them held out; {known}",
    )
    if left.duplicates:
        yield Fact("copies", f"{counted(left.duplicates, 'file')} with the bytes of another one")
    if left.contradicted:
        yield Fact(
            "left out",
            f"{counted(left.contradicted, 'image')} whose copies are labelled differently",
            "warning",
        )
    for reason, count in left.reasons.items():
        yield Fact("left out", f"{counted(count, 'image')}: {reason}", "warning")
    yield Fact("seconds", "features {:.0f}, heads {:.0f}".format(*training.seconds))


def _tables(training: Training) -> Iterator[Table]:
    for each in training.categories:
        header = ["held out", one_line(training.name, _NAME_WIDTH)]
        columns = [named_metrics(each.trained)]
        if each.base is not None:
            header.append(one_line(training.whose_base, _NAME_WIDTH))
            columns.append(named_metrics(each.base))
        rows = tuple((name, *(cell(column[name]) for column in columns)) for name in columns[0])
        positive, negative = each.held_out
        interval = ", 95 % intervals" if training.resamples else ""
        notes = (
            f"fitted on {each.fitted[0]:,} positive and {each.fitted[1]:,} negative images, "
            f"penalty {each.penalty:.2g}",
            f"review from {each.review:g}, block from {each.block:g}"
            + ("" if each.base is not None else f"; {training.whose_base} does not score it"),
        )
        yield Table(
            f"{each.name}: {positive:,} positive, {negative:,} negative{interval}",
            tuple(header),
            rows,
            notes,
        )


def _closing(training: Training) -> Sentences:
    lines = [f"note: {note}" for note in training.notes]
    if training.kept:
        lines.append(f"{', '.join(training.kept)}: scored as by {training.base}")
    return sentences([*lines, *_NOTES])


def _data(training: Training) -> dict[str, Any]:
    left = training.left_out
    return {
        "schema": SCHEMA,
        "name": training.name,
        "sha256": training.sha256,
        "base": training.base,
        "base_sha256": training.base_sha256,
        "labels": training.source,
        "labels_sha256": training.labels_sha256,
        "seed": training.seed,
        "images": training.images,
        "held_out": training.held_out,
        "extracted": training.extracted,
        "duplicates": left.duplicates,
        "contradicted": left.contradicted,
        "left_out": dict(left.reasons),
        "confidence": CONFIDENCE,
        "resamples": training.resamples,
        "base_figures_of": training.whose_base,
        "kept": list(training.kept),
        "seconds": {"features": training.seconds[0], "heads": training.seconds[1]},
        "categories": {each.name: _category(each) for each in training.categories},
        "notes": [*training.notes, *_NOTES],
    }


def _category(of: OfCategory) -> dict[str, Any]:
    def measured(found: Measured | None) -> dict[str, Any] | None:
        return None if found is None else measured_json(found)

    return {
        "fitted": {"positive": of.fitted[0], "negative": of.fitted[1]},
        "held_out": {"positive": of.held_out[0], "negative": of.held_out[1]},
        "review": of.review,
        "block": of.block,
        "penalty": of.penalty,
        "trained": measured(of.trained),
        "base": measured(of.base),
    }
