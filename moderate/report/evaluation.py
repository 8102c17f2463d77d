"""An evaluation: metrics with intervals as tables, worst mistakes, gates, and plots for HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from moderate.analysis.evaluation import (
    DEFINITIONS,
    Evaluation,
    OfCategory,
    OfDecisions,
    OfSlice,
)
from moderate.analysis.metrics import CONFIDENCE, Confusion, Estimate, Measured
from moderate.policy.load import shown_name
from moderate.report.model import (
    Fact,
    Facts,
    Figures,
    Part,
    Report,
    Table,
    sentences,
)
from moderate.report.svg import Bar, Mark, Plot
from moderate.results.schema import shortest
from moderate.text import one_line, printable
from moderate.types import Decision

SCHEMA = 1
"""Of the JSON; a change that breaks a reader raises it."""

_DECISIONS = tuple(decision.value for decision in Decision)
_LABELLED = ("positive in some", "negative in all")
_VALUE_WIDTH = 24  # of a slice's value in a table


def report(evaluation: Evaluation) -> Report:
    """The whole evaluation; a terminal shows neither plots nor definitions, and the gates last."""
    metrics, worst = tuple(_tables(evaluation)), tuple(_worst(evaluation))
    return Report(
        "moderate: evaluation",
        (
            *_gates(evaluation),
            *metrics,
            *_figures(evaluation),
            *worst,
            sentences(_closing(evaluation)),
        ),
        _data(evaluation),
        _headline(evaluation),
        headline_first=True,
        terminal_parts=(*metrics, *worst, Facts(tuple(_verdict(evaluation)), label_width=10)),
    )


def _verdict(evaluation: Evaluation) -> Iterator[Fact]:
    """What a terminal shows last: what is undefined, notes, and the gates."""
    yield from (Fact("undefined", line) for line in _undefined(evaluation))
    yield from (Fact("note", note, "warning") for note in evaluation.notes)
    for gate in evaluation.gates:
        if gate.passed:
            yield Fact("gate held", gate.line, "good")
        else:
            yield Fact("MISSED", gate.line, "bad")


def _headline(evaluation: Evaluation) -> str:
    """How many images, by which policy, and how it went."""
    of = evaluation.decisions
    headline = f"{evaluation.images:,} labelled images, policy {printable(evaluation.policy)}"
    (missed, *_), (_, _, blocked) = of.by_label
    headline += f": {missed:,} missed, {blocked:,} blocked falsely"
    if evaluation.gates:
        held = sum(gate.passed for gate in evaluation.gates)
        headline += f"; {held} of {len(evaluation.gates)} gates held"
    return headline


def _facts(evaluation: Evaluation) -> Iterator[str]:
    """What was compared with what."""
    yield f"results: {printable(evaluation.results)}"
    if evaluation.run_id:
        yield f"run: {printable(evaluation.run_id)}"
    if evaluation.weights:
        yield f"weights: {printable(evaluation.weights)}"
    yield f"labels: {printable(evaluation.labels)}"
    again = " (decisions taken again by it)" if evaluation.decided_again else ""
    policy = shown_name(evaluation.policy, evaluation.policy_file)
    yield f"policy: {printable(policy)}{again}"
    if evaluation.resamples:
        yield f"intervals: 95 %, {evaluation.resamples:,} resamples, seed {evaluation.seed}"


def _tables(evaluation: Evaluation) -> Iterator[Table]:
    """Every part that has something to say, in reading order."""
    yield _decisions(evaluation.decisions)
    if evaluation.decisions.by_expected:
        yield _expected(evaluation.decisions)
    labelled = [each for each in evaluation.categories if each.n or each.unscored]
    if labelled:
        yield Table(
            "Labels",
            ("category", "images", "positive", "share", "no score", "review", "block"),
            tuple(
                (
                    str(each.category),
                    *(str(each.n), str(each.positives), _percent(Estimate(each.prevalence.value))),
                    *(str(each.unscored), _limit(each.review), _limit(each.block)),
                )
                for each in labelled
            ),
            evaluation.coverage.lines([each.category for each in labelled]),
        )
    scored = [each for each in evaluation.categories if each.n]
    if not scored:
        return
    interval = " (95 % interval)" if evaluation.resamples else ""
    measured = [(str(each.category), _metrics(each.measured)) for each in scored]
    for title, columns in measured[0][1].items():
        rows = ((name, *map(cell, metrics[title].values())) for name, metrics in measured)
        yield Table(title + interval, ("category", *columns), tuple(rows))
    yield _counts(scored)
    for column in dict.fromkeys(each.column for each in evaluation.slices):
        yield from _slices(column, [each for each in evaluation.slices if each.column == column])


def _limit(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:g}"


def _gates(evaluation: Evaluation) -> Iterator[Table]:
    """The gates, where there are any."""
    if evaluation.gates:
        yield Table(
            "Gates",
            ("gate", "result"),
            tuple((gate.line, "held" if gate.passed else "missed") for gate in evaluation.gates),
        )


def _worst(evaluation: Evaluation) -> Iterator[Table]:
    """The mistakes that are named, a table for each kind and category."""
    for each in evaluation.categories:
        for title, mistakes in (
            ("positives that score lowest, not flagged", each.misses),
            ("negatives that score highest, flagged", each.false_alarms),
        ):
            if mistakes:
                yield Table(
                    f"{each.category}: {title}",
                    ("image", "score", "decision"),
                    tuple((m.path, shortest(m.score), m.decision) for m in mistakes),
                    name_last=(13, 8),
                )


def _closing(evaluation: Evaluation) -> list[str]:
    """What a document ends with: its sources, what is undefined, notes and definitions."""
    without = (f"undefined: {line}" for line in _undefined(evaluation))
    notes = (f"note: {note}" for note in evaluation.notes)
    return [*_facts(evaluation), *without, *notes, *DEFINITIONS]


def _undefined(evaluation: Evaluation) -> Iterator[str]:
    """Which metrics have no value, and why."""
    unlabelled = [str(each.category) for each in evaluation.categories if not each.n]
    if unlabelled:
        yield f"no image has both a label and a score: {', '.join(unlabelled)}"
    for each in evaluation.categories:
        reasons: dict[str, list[str]] = {}
        for name, estimate in named_metrics(each.measured).items():
            if each.n and estimate.reason:
                reasons.setdefault(estimate.reason, []).append(name)
        for reason, names in reasons.items():
            yield f"{each.category}: {reason} ({', '.join(names)})"
    decisions = evaluation.decisions
    for name, estimate in (("missed", decisions.missed), ("false block", decisions.false_block)):
        if estimate.reason:
            yield f"{name}: {estimate.reason}"


def _figures(evaluation: Evaluation) -> Iterator[Part]:
    for each in evaluation.categories:
        if each.n:
            yield Figures(f"{each.category}: {each.n:,} images", tuple(plots(each)))


def plots(of: OfCategory) -> Iterator[Plot]:
    """The plots of a category that has images; without positives there is one."""
    marked = [
        (name, point)
        for name, point in (("review", of.review_point), ("block", of.block_point))
        if point is not None
    ]
    recalls = [(point, point.recall) for point in of.points if point.recall is not None]
    if recalls:
        yield Plot(
            "Precision and recall",
            "recall",
            "precision",
            line=[(recall, point.precision) for point, recall in recalls],
            marks=[
                Mark((point.recall, point.precision), name)
                for name, point in marked
                if point.recall is not None
            ],
        )
    yield Plot(
        "Reliability (ECE)",
        "score",
        "share of positives",
        bars=[
            Bar(
                each.low,
                each.high,
                each.positives,
                f"{each.low:.2f} to {each.high:.2f}: {each.images:,} images, mean score "
                f"{each.mean_score:.3f}, {100 * each.positives:.1f} % positive",
            )
            for each in of.bins
        ],
        points=[(each.mean_score, each.positives) for each in of.bins],
        diagonal=True,
    )
    if recalls:
        yield Plot(
            "Review volume and misses",
            "share of labelled images flagged",
            "share of positives missed",
            line=[(0.0, 1.0), *((point.flagged, 1 - recall) for point, recall in recalls)],
            marks=[
                Mark((point.flagged, 1 - point.recall), name)
                for name, point in marked
                if point.recall is not None
            ],
        )


def _data(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as what JSON can hold; estimates are value, and interval or reason."""
    return {
        "schema": SCHEMA,
        "results": evaluation.results,
        "labels": evaluation.labels,
        "policy": evaluation.policy,
        "policy_file": evaluation.policy_file,
        "decided_again": evaluation.decided_again,
        "run_id": evaluation.run_id,
        "weights": evaluation.weights,
        "images": evaluation.images,
        "errors": evaluation.errors,
        "without_score": evaluation.unscored,
        "unmatched_labels": evaluation.unmatched,
        "unlabelled_rows": evaluation.unlabelled,
        "confidence": CONFIDENCE,
        "resamples": evaluation.resamples,
        "seed": evaluation.seed,
        "passed": evaluation.passed,
        "gates": [
            {
                "name": gate.name,
                "wanted": gate.wanted,
                "passed": gate.passed,
                "found": estimate_json(gate.found),
                "line": gate.line,
            }
            for gate in evaluation.gates
        ],
        "decisions": _decisions_json(evaluation.decisions),
        "categories": {str(each.category): _category(each) for each in evaluation.categories},
        "coverage": evaluation.coverage.as_json(),
        "slices": [_slice(each) for each in evaluation.slices],
        "notes": list(evaluation.notes),
        "definitions": list(DEFINITIONS),
    }


def _decisions(of: OfDecisions) -> Table:
    rows = []
    for name, counts, errors in zip(_LABELLED, of.by_label, of.errors_by_label, strict=True):
        rows.append((name, str(sum(counts)), *map(str, counts)))
        if any(errors):
            rows.append(("  errors among them", str(sum(errors)), *map(str, errors)))
    rates = (("missed", of.missed), ("false block", of.false_block))
    shares = ", ".join(f"{name} {_percent(each)}" for name, each in rates)
    return Table(f"Decisions: {shares}", ("labelled", "images", *_DECISIONS), tuple(rows))


def _expected(of: OfDecisions) -> Table:
    rows = tuple(
        (name, str(sum(counts)), *map(str, counts))
        for name, counts in zip(_DECISIONS, of.by_expected, strict=True)
    )
    return Table("Decisions by the one expected", ("expected", "images", *_DECISIONS), rows)


def _counts(scored: Sequence[OfCategory]) -> Table:
    rows: list[tuple[str, ...]] = []
    for each in scored:
        for kind, counts in (
            ("review", each.measured.at_review),
            ("block", each.measured.at_block),
        ):
            rows.append((str(each.category), kind, *map(str, counts)))
    header = ("category", "threshold", "true pos.", "false pos.", "false neg.", "true neg.")
    return Table("Images that reach a threshold, or do not", header, tuple(rows))


def _slices(column: str, slices: Sequence[OfSlice]) -> Iterator[Table]:
    shown = one_line(column, _VALUE_WIDTH)
    yield Table(
        f"By {shown}",
        (shown, "images", "missed", "false block"),
        tuple(
            (
                _value(each),
                str(each.images),
                _percent(each.decisions.missed),
                _percent(each.decisions.false_block),
            )
            for each in slices
        ),
    )
    yield Table(
        f"By {shown} and category (at review)",
        (shown, "category", "images", "pos.", "prec.", "recall", "PR-AUC"),
        tuple(
            (
                *(_value(each), str(category), str(n), str(positives)),
                *map(_short, (measured.precision, measured.recall, measured.average_precision)),
            )
            for each in slices
            for category, n, positives, measured in each.categories
        ),
    )


def _value(of: OfSlice) -> str:
    return "(none)" if of.value is None else one_line(of.value, _VALUE_WIDTH)


def _short(estimate: Estimate) -> str:
    return "-" if estimate.value is None else f"{estimate.value:.3f}"


def cell(estimate: Estimate) -> str:
    """A metric in a table, with its interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return _short(estimate) + " " * 12  # as wide as the interval that others have
    return f"{estimate.value:.3f} {estimate.low:.3f}-{estimate.high:.3f}"


def _percent(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    share = f"{100 * estimate.value:.1f} %"
    if estimate.low is None or estimate.high is None:
        return share
    return f"{share} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def _metrics(of: Measured) -> dict[str, dict[str, Estimate]]:
    """The metrics by the title of the table that shows them."""
    return {
        "At the review threshold": {"precision": of.precision, "recall": of.recall, "F1": of.f1},
        "At the block threshold": {
            "precision": of.block_precision,
            "recall": of.block_recall,
            "F1": of.block_f1,
        },
        "At all thresholds": {
            "PR-AUC": of.average_precision,
            "ROC-AUC": of.roc_auc,
            "ECE": of.ece,
        },
    }


def named_metrics(of: Measured) -> dict[str, Estimate]:
    """All metrics by their names; those of the block threshold say so."""
    review, block, overall = _metrics(of).values()
    return {**review, **{f"block {name}": metric for name, metric in block.items()}, **overall}


def estimate_json(of: Estimate) -> dict[str, Any]:
    """A metric as JSON: its value with interval and method, or the reason for none."""
    if of.value is None:
        return {"value": None, "reason": of.reason}
    return {"value": of.value, "low": of.low, "high": of.high, "method": of.method}


def _at(counts: Confusion, precision: Estimate, recall: Estimate, f1: Estimate) -> dict[str, Any]:
    return {
        **counts._asdict(),
        "precision": estimate_json(precision),
        "recall": estimate_json(recall),
        "f1": estimate_json(f1),
    }


def measured_json(of: Measured) -> dict[str, Any]:
    """All metrics of a category as JSON."""
    return {
        "at_review": _at(of.at_review, of.precision, of.recall, of.f1),
        "at_block": _at(of.at_block, of.block_precision, of.block_recall, of.block_f1),
        "pr_auc": estimate_json(of.average_precision),
        "roc_auc": estimate_json(of.roc_auc),
        "ece": estimate_json(of.ece),
    }


def _category(of: OfCategory) -> dict[str, Any]:
    return {
        "images": of.n,
        "positives": of.positives,
        "prevalence": of.prevalence.value,
        "without_score": of.unscored,
        "review": of.review,
        "block": of.block,
        "overridden": of.overridden,
        **measured_json(of.measured),
        "reliability": [each._asdict() for each in of.bins],
        "curve": [each._asdict() for each in of.points],
        "misses": [each._asdict() for each in of.misses],
        "false_alarms": [each._asdict() for each in of.false_alarms],
    }


def _decisions_json(of: OfDecisions) -> dict[str, Any]:
    def counts(each: Sequence[int]) -> dict[str, int]:
        return dict(zip(_DECISIONS, each, strict=True))

    return {
        "positive": counts(of.by_label[0]),
        "negative": counts(of.by_label[1]),
        "errors_positive": counts(of.errors_by_label[0]),
        "errors_negative": counts(of.errors_by_label[1]),
        "expected": dict(zip(_DECISIONS, map(counts, of.by_expected), strict=False)),
        "missed": estimate_json(of.missed),
        "false_block": estimate_json(of.false_block),
    }


def _slice(of: OfSlice) -> dict[str, Any]:
    return {
        "column": of.column,
        "value": of.value,
        "images": of.images,
        "decisions": _decisions_json(of.decisions),
        "categories": {
            str(category): {"images": n, "positives": positives, **measured_json(measured)}
            for category, n, positives, measured in of.categories
        },
    }
