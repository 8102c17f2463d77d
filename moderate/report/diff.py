"""The difference between two results, or two policies, for a terminal, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import IO, Any

from moderate.analysis.diff import Difference
from moderate.errors import UsageError
from moderate.report.decide import transitions, transitions_json
from moderate.report.plain import markdown, print_tables
from moderate.report.tables import Table, share
from moderate.report.terminal import safe_text
from moderate.results.open import check_place
from moderate.results.remote import shown_target, target_name
from moderate.text import one_line, printable

_PATH = 44  # characters; the end of a path says more than its start


def headline(found: Difference) -> str:
    """How many decisions changed."""
    part = share(found.changed, found.matched)
    return f"{found.changed} of {found.matched} decisions changed ({part})"


def sentences(found: Difference) -> Iterator[str]:
    """What the two sides were made by, said plainly, and what else there is to know."""
    before, after = found.before, found.after
    if before.results == after.results:
        yield f"results: {printable(before.results)}"
    else:
        yield f"before: {printable(before.results)}; after: {printable(after.results)}"
    yield _same("weights", before.weights, before.weights_sha256, after.weights,
                after.weights_sha256)  # fmt: skip
    yield _same("policies", before.policy, before.policy_sha256, after.policy, after.policy_sha256)
    if found.scores_changed:
        yield (
            f"scores: {found.scores_changed} rows have another score, "
            f"by {found.largest_change:.4f} at the most"
        )
    else:
        yield "scores: the same"
    if found.only_before or found.only_after:
        yield f"rows: {found.only_before} only before, {found.only_after} only after"
    yield from (f"note: {printable(note)}" for note in found.notes)


def tables(found: Difference) -> Iterator[Table]:
    """Everything that is counted or listed."""
    yield transitions(found.transitions, "before", "after")
    if found.bands is not None:
        yield Table(
            "Categories (rows whose band moved)",
            ("category", "moved", "stricter", "milder", "newly scored", "no longer scored"),
            tuple(
                (name, *map(str, (m.moved, m.stricter, m.milder, m.appeared, m.vanished)))
                for name, m in found.bands.items()
            ),
        )
    if found.moved:
        yield Table(
            "Rows that moved most",
            ("path", "before", "after", "category", "score", "then"),
            tuple(
                (_end(m.path), m.before, m.after, m.category, _number(m.score_before),
                 _number(m.score_after))
                for m in found.moved
            ),
        )  # fmt: skip
    for title, paths, count in (
        ("Only before", found.examples_before, found.only_before),
        ("Only after", found.examples_after, found.only_after),
    ):
        if count:
            more = ((f"and {count - len(paths)} more",),) if count > len(paths) else ()
            yield Table(
                f"{title} ({count} rows)", ("path",), tuple((printable(p),) for p in paths) + more
            )


def as_json(found: Difference) -> dict[str, Any]:
    """All of it as JSON values. `schema` counts up when a key changes its meaning."""
    before, after = found.before, found.after
    return {
        "schema": 1,
        "before": asdict(before),
        "after": asdict(after),
        "same_weights": _is_same(before.weights_sha256, after.weights_sha256),
        "same_policy": _is_same(before.policy_sha256, after.policy_sha256),
        "matched": found.matched,
        "changed": found.changed,
        "transitions": transitions_json(found.transitions),
        "categories": None
        if found.bands is None
        else {name: {"moved": m.moved, **asdict(m)} for name, m in found.bands.items()},
        "scores_changed": found.scores_changed,
        "largest_score_change": found.largest_change,
        "moved": [asdict(moved) for moved in found.moved],
        "only_before": {"rows": found.only_before, "first": list(found.examples_before)},
        "only_after": {"rows": found.only_after, "first": list(found.examples_after)},
        "notes": list(found.notes),
    }


def to_json(found: Difference) -> str:
    """All of it as JSON text."""
    return json.dumps(as_json(found), indent=2, ensure_ascii=False) + "\n"


def to_markdown(found: Difference) -> str:
    """All of it as Markdown."""
    title = "moderate: difference"
    return markdown(title, headline(found), list(tables(found)), list(sentences(found)))


FORMATS: dict[str, Callable[[Difference], str]] = {".json": to_json, ".md": to_markdown}


def text_for(found: Difference, target: str) -> str:
    """What a file of this name is to hold; see `check_targets`."""
    name = target_name(target).lower()
    return next(make for suffix, make in FORMATS.items() if name.endswith(suffix))(found)


def check_targets(targets: list[str]) -> None:
    """Refuse before any work what could not be written. Raises UsageError or OutputError."""
    for target in targets:
        if not target_name(target).lower().endswith(tuple(FORMATS)):
            raise UsageError(
                f"--out {shown_target(target)}: the suffix decides the format; "
                f"use one of {', '.join(FORMATS)}"
            )
        check_place(target)


def show(found: Difference, stream: IO[str]) -> None:
    """Print all of it."""
    out = print_tables(list(tables(found)), stream)
    out.print(safe_text(headline(found), "bold"))
    for line in sentences(found):
        differ = line.startswith(("note:", "weights: different", "policies: different"))
        out.print(safe_text(line, "yellow" if differ else ""))


def _same(
    what: str, before: str | None, digest_before: str | None, after: str | None,
    digest_after: str | None,
) -> str:  # fmt: skip
    same = _is_same(digest_before, digest_after)
    if same:
        return f"{what}: the same, {_named(before, digest_before)}"
    said = "different" if same is False else "not known to be the same"
    return f"{what}: {said}, {_named(before, digest_before)} and {_named(after, digest_after)}"


def _is_same(before: str | None, after: str | None) -> bool | None:
    return None if before is None or after is None else before == after


def _named(name: str | None, digest: str | None) -> str:
    if name is None and digest is None:
        return "not recorded"
    return f"{one_line(name or '-', 80)} ({one_line(digest or '-', 64)})"


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


def _end(path: str) -> str:
    shown = printable(path)
    return shown if len(shown) <= _PATH else "…" + shown[-_PATH + 1 :]
