"""The summary of a results file, from its rows and audit facts alone.

What a file does not keep is not in it: what was skipped, where scores came from, and the speed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from moderate.analysis.policies import policy_of
from moderate.classify.coverage import Coverage
from moderate.policy.batch import UNKNOWN_ERROR
from moderate.policy.model import Policy
from moderate.policy.thresholds import BANDS, band_counts, score_bands
from moderate.report.plain import markdown, print_tables
from moderate.report.tables import Table, share
from moderate.report.terminal import safe_text
from moderate.results.read import Results
from moderate.run.summary import EXAMPLES_KEPT, SCHEMA_VERSION, name_counted
from moderate.text import printable
from moderate.types import CATEGORIES, Decision, Status

_FACTS = (
    *(
        "weights",
        "weights_sha256",
        "weights_fit_for",
        "policy",
        "policy_sha256",
        "config",
        "config_sha256",
    ),
    *("device", "precision", "backend", "started", "ended", "run_id", "version"),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """Counts over the rows of a file; bands are those of the run's policy."""

    facts: Mapping[str, str]
    rows: int
    errors: int
    duplicates: int
    decisions: Mapping[str, int]
    bands: Mapping[str, Mapping[str, int]]
    error_codes: Mapping[str, int]
    error_examples: Mapping[str, list[str]]
    warnings: Mapping[str, int]
    notes: tuple[str, ...]


def summarise(results: Results) -> Stored:
    """Count the rows of a file. Raises InputError, also where it does not hold its policy."""
    policy = policy_of(results)
    own = ("path", "status", "decision", "duplicate_of", "warnings", "error_code")
    table = results.table([*own, *CATEGORIES])
    statuses = counted(table["status"])
    warnings: Counter[str] = Counter()
    for text, count in counted(table["warnings"]).items():
        for warning in text.split("; "):
            warnings[name_counted(warning, warnings)] += count
    codes, examples = _errors(table)
    scored = statuses.get("ok", 0)
    return Stored(
        facts=results.facts,
        rows=table.num_rows,
        errors=statuses.get("error", 0),
        duplicates=table.num_rows - table["duplicate_of"].null_count,
        decisions=counted(table["decision"]),
        bands={name.value: _bands(table[name], policy, name, scored) for name in CATEGORIES},
        error_codes=dict(sorted(codes.items())),
        error_examples=dict(sorted(examples.items())),
        warnings=dict(sorted(warnings.items())),
        notes=tuple(_notes(results, policy)),
    )


def counted(column: Any) -> dict[str, int]:
    """How often each value of an Arrow column of text occurs; null is not counted."""
    return {
        item["values"]: item["counts"]
        for item in column.value_counts().to_pylist()
        if item["values"] is not None
    }


def as_json(stored: Stored) -> dict[str, Any]:
    """The counts as JSON values, with the keys of a run's summary as far as they are known."""
    return {
        "schema": SCHEMA_VERSION,
        "audit": dict(stored.facts),
        "rows": stored.rows,
        "scored": stored.rows - stored.errors,
        "errors": stored.errors,
        "duplicates": stored.duplicates,
        "decisions": {d.value: stored.decisions.get(d.value, 0) for d in Decision},
        "categories": {name: dict(bands) for name, bands in stored.bands.items()},
        "coverage": Coverage.of_facts(stored.facts).as_json(),
        "error_codes": dict(stored.error_codes),
        "error_examples": dict(stored.error_examples),
        "warnings": dict(stored.warnings),
        "notes": list(stored.notes),
    }


def headline(stored: Stored) -> str:
    """The sum that has to come out even."""
    return f"{stored.rows - stored.errors} scored + {stored.errors} errors = {stored.rows} rows"


def tables(stored: Stored) -> Iterator[Table]:
    """The counts as tables of text."""
    yield Table(
        "Decisions",
        ("decision", "images", "share"),
        tuple(
            (d.value, str(count), share(count, stored.rows))
            for d in Decision
            for count in (stored.decisions.get(d.value, 0),)
        ),
    )
    yield Table(
        "Categories (scored images per band)",
        ("category", "approve", "review", "block", "not scored"),
        tuple(
            (name, *(str(bands[band]) for band in BANDS)) for name, bands in stored.bands.items()
        ),
        Coverage.of_facts(stored.facts).lines(),
    )
    if stored.error_codes:
        yield Table(
            "Errors (no score, never approved)",
            ("code", "images", "for example"),
            tuple(
                (code, str(count), printable(stored.error_examples[code][0]))
                for code, count in stored.error_codes.items()
            ),
        )
    if stored.warnings:
        yield Table(
            "Warnings (scored all the same)",
            ("warning", "images"),
            tuple((name, str(count)) for name, count in stored.warnings.items()),
        )


def closing(stored: Stored) -> Iterator[str]:
    """What the file was made with, and notes."""
    yield f"copies: {stored.duplicates}"
    for name in _FACTS:
        if name in stored.facts:
            yield f"{name}: {printable(stored.facts[name])}"
    yield from (f"note: {note}" for note in stored.notes)


def to_json(stored: Stored) -> str:
    """The counts as JSON text."""
    return json.dumps(as_json(stored), indent=2, ensure_ascii=False) + "\n"


def to_markdown(stored: Stored) -> str:
    """The counts as Markdown."""
    shown = list(tables(stored)), list(closing(stored))
    return markdown("moderate: summary", headline(stored), *shown)


FORMATS: dict[str, Callable[[Stored], str]] = {".json": to_json, ".md": to_markdown}


def show(stored: Stored, stream: IO[str]) -> None:
    """Print the counts."""
    out = print_tables(list(tables(stored)), stream)
    out.print(safe_text(headline(stored), "bold"))
    for line in closing(stored):
        out.print(safe_text(line, "yellow" if line.startswith("note:") else ""))


def _bands(column: Any, policy: Policy, category: Any, scored: int) -> dict[str, int]:
    values = column.to_numpy().astype(np.float32, copy=False)
    limits = policy.categories[category]
    # Of those without a score, the rows with an error do not count.
    *known, _ = band_counts(score_bands(values, limits.review, limits.block))
    return dict(zip(BANDS, (*known, scored - sum(known)), strict=True))


def _errors(table: Any) -> tuple[Counter[str], dict[str, list[str]]]:
    """How many rows failed by code, and paths of the first."""
    import pyarrow.compute as pc

    failed = table.filter(pc.equal(table["status"], Status.ERROR.value))
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for index, code in enumerate(failed["error_code"].fill_null(UNKNOWN_ERROR).to_pylist()):
        name = name_counted(code, counts)
        counts[name] += 1
        paths = examples.setdefault(name, [])
        if len(paths) < EXAMPLES_KEPT:
            paths.append(failed["path"][index].as_py())
    return counts, examples


def _notes(results: Results, policy: Policy) -> Iterator[str]:
    if results.facts.get("purpose") == "demo":
        yield "the weights are a demonstration: they know drawn test cards only"
    if results.mismatch:
        yield "the file is not the one that the audit facts beside it describe"
    if policy.override:
        yield "the policy has overrides: bands are those of its own thresholds"
