"""The difference between two results, or between two policies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from moderate.analysis.diff import Difference, Made
from moderate.policy.load import shown_name
from moderate.report.decide import transitions, transitions_data
from moderate.report.model import Report, Table, Tone, counted, sentences, share
from moderate.text import one_line, printable
from moderate.types import CATEGORIES, Decision

_MOVED_WIDTHS = (*[max(len(each) for each in Decision)] * 2, max(map(len, CATEGORIES)), 6, 6)
_STRIKING = ("note:", "weights: different", "policies: different")


def report(difference: Difference) -> Report:
    """All of it."""
    tones: dict[str, Tone] = dict.fromkeys(_STRIKING, "warning")
    part = share(difference.changed, difference.matched)
    return Report(
        "moderate: difference",
        (*_tables(difference), sentences(list(_closing(difference)), tones)),
        _data(difference),
        f"{difference.changed} of {difference.matched} decisions changed ({part})",
    )


def _closing(difference: Difference) -> Iterator[str]:
    """Weights, policy and scores of the two sides, and notes."""
    before, after = difference.before, difference.after
    if before.results == after.results:
        yield f"results: {printable(before.results)}"
    else:
        yield f"before: {printable(before.results)}; after: {printable(after.results)}"
    yield _same("weights", before.weights, before.weights_sha256, after.weights,
                after.weights_sha256)  # fmt: skip
    yield _same("policies", _policy(before), before.policy_sha256, _policy(after),
                after.policy_sha256)  # fmt: skip
    if difference.scores_changed:
        yield (
            f"scores: {counted(difference.scores_changed, 'row')} with another score, "
            f"by {difference.largest_change:.4f} at the most"
        )
    else:
        yield "scores: the same"
    if difference.without_scores:
        yield (
            f"without scores: {difference.without_scores} of the changed decisions are of rows "
            "that have no score on one side or both (errors, or nothing scored); not listed above"
        )
    if difference.only_before or difference.only_after:
        yield f"rows: {difference.only_before} only before, {difference.only_after} only after"
    yield from (f"note: {printable(note)}" for note in difference.notes)


def _tables(difference: Difference) -> Iterator[Table]:
    """Everything that is counted or listed."""
    yield transitions(difference.transitions, "before", "after")
    if difference.bands is not None:
        yield Table(
            "Categories (rows whose band moved)",
            ("category", "moved", "stricter", "milder", "newly scored", "no longer scored"),
            tuple(
                (name, *map(str, (m.moved, m.stricter, m.milder, m.appeared, m.vanished)))
                for name, m in difference.bands.items()
            ),
        )
    if difference.moved:
        yield Table(
            "Rows that moved most (decision, category and score before and after)",
            ("path", "before", "after", "category", "score", "then"),
            tuple(
                (m.path, m.before, m.after, m.category or "-", _number(m.score_before),
                 _number(m.score_after))
                for m in difference.moved
            ),
            name_last=_MOVED_WIDTHS,
        )  # fmt: skip
    for title, paths, count in (
        ("Only before", difference.examples_before, difference.only_before),
        ("Only after", difference.examples_after, difference.only_after),
    ):
        if count:
            more = ((f"and {count - len(paths)} more",),) if count > len(paths) else ()
            yield Table(
                f"{title} ({count} rows)",
                ("path",),
                tuple((printable(p),) for p in paths) + more,
                wide=True,
            )


def _data(difference: Difference) -> dict[str, Any]:
    """All of it as JSON values. `schema` counts up when a key changes its meaning."""
    before, after = difference.before, difference.after
    return {
        "schema": 1,
        "before": asdict(before),
        "after": asdict(after),
        "same_weights": _is_same(before.weights_sha256, after.weights_sha256),
        "same_policy": _is_same(before.policy_sha256, after.policy_sha256),
        "matched": difference.matched,
        "changed": difference.changed,
        "transitions": transitions_data(difference.transitions),
        "categories": None
        if difference.bands is None
        else {name: {"moved": m.moved, **asdict(m)} for name, m in difference.bands.items()},
        "scores_changed": difference.scores_changed,
        "largest_score_change": difference.largest_change,
        "moved": [asdict(moved) for moved in difference.moved],
        "changed_without_scores": difference.without_scores,
        "only_before": {"rows": difference.only_before, "first": list(difference.examples_before)},
        "only_after": {"rows": difference.only_after, "first": list(difference.examples_after)},
        "notes": list(difference.notes),
    }


def _same(
    what: str, before: str | None, digest_before: str | None, after: str | None,
    digest_after: str | None,
) -> str:  # fmt: skip
    same = _is_same(digest_before, digest_after)
    if same:
        return f"{what}: the same, {_named(before, digest_before)}"
    relation = "different" if same is False else "not known to be the same"
    return f"{what}: {relation}, {_named(before, digest_before)} and {_named(after, digest_after)}"


def _policy(made: Made) -> str | None:
    return None if made.policy is None else shown_name(made.policy, made.policy_file)


def _is_same(before: str | None, after: str | None) -> bool | None:
    return None if before is None or after is None else before == after


def _named(name: str | None, digest: str | None) -> str:
    if name is None and digest is None:
        return "not recorded"
    return f"{one_line(name or '-', 500)} ({one_line(digest or '-', 64)})"


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"
