"""Counts over the rows of a results file, from its rows and audit facts alone.

What a file does not keep is not counted: what was skipped, and the speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moderate.analysis.policies import DECIDE_AGAIN, policy_of
from moderate.arrow import python_values
from moderate.policy.batch import UNKNOWN_ERROR
from moderate.policy.judge import Judge
from moderate.policy.lists import Lists
from moderate.policy.model import Policy, Thresholds
from moderate.policy.thresholds import BANDS, band_counts, score_bands
from moderate.results.final import columns_of_final, decided
from moderate.results.read import Results
from moderate.run.summary import EXAMPLES_KEPT, idle_note, name_counted
from moderate.types import Origin, Status


@dataclass(frozen=True, slots=True)
class Stored:
    """Counts over the rows of a file; bands are those of the run's policy.

    origins is empty for a file of a version that did not write them, ratings where the policy has
    no levels that match by description.
    """

    facts: Mapping[str, str]
    rows: int
    errors: int
    duplicates: int
    origins: Mapping[str, int]
    decisions: Mapping[str, int]
    ratings: Mapping[str, int]
    bands: Mapping[str, Mapping[str, int]]
    error_codes: Mapping[str, int]
    error_examples: Mapping[str, list[str]]
    warnings: Mapping[str, int]
    notes: tuple[str, ...]


def summarise(results: Results) -> Stored:
    """Count the rows of a file. Raises InputError, also where it does not hold its policy."""
    policy = policy_of(results, advice=DECIDE_AGAIN)
    own = (
        "path",
        "origin",
        "status",
        "decision",
        "duplicate_of",
        "warnings",
        "error_code",
        "rating",
    )
    people = columns_of_final(results)
    table = results.table([*own, *results.categories, *people])
    carried = {name: table[name].combine_chunks() for name in people}
    final = decided(results, {"decision": table["decision"]}, carried)
    statuses, origins = counted(table["status"]), counted(table["origin"])
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
        origins={o.value: n for o in Origin if (n := origins.get(o.value))},
        decisions=counted(final["decision"]),
        ratings=_ratings(table["rating"], policy),
        bands={
            str(name): _bands(table[name], limits, scored)
            for name in results.categories
            if (limits := policy.limits(name))
        },
        error_codes=dict(sorted(codes.items())),
        error_examples=dict(sorted(examples.items())),
        warnings=dict(sorted(warnings.items())),
        notes=(*_people_notes(results, table), *_notes(results, policy)),
    )


def counted(column: Any) -> dict[str, int]:
    """How often each value of an Arrow column of text occurs; null is not counted."""
    return {
        item["values"]: item["counts"]
        for item in column.value_counts().to_pylist()
        if item["values"] is not None
    }


def _ratings(column: Any, policy: Policy) -> dict[str, int]:
    scales = Judge(policy, lists=Lists()).described_scales
    counts: Counter[str] = Counter({level.value: 0 for scale in scales for level in scale})
    for name, count in counted(column).items() if scales else ():
        counts[name_counted(name, counts)] += count
    return dict(counts)


def _bands(column: Any, limits: Thresholds, scored: int) -> dict[str, int]:
    values = column.to_numpy().astype(np.float32, copy=False)
    # Rows with an error have no score either, and are not among the scored.
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


def _people_notes(results: Results, table: Any) -> Iterator[str]:
    if people := columns_of_final(results):
        cells = python_values(table[people[0]].combine_chunks())
        yield f"people decided on {sum(map(bool, cells)):,} rows: decisions are the final ones"


def _notes(results: Results, policy: Policy) -> Iterator[str]:
    if results.facts.get("purpose") == "demo":
        yield "the weights are a demonstration: they know drawn test cards only"
    if results.mismatch:
        yield "the file is not the one that the audit facts beside it describe"
    if idle := [name for name in results.own_categories if name not in policy.own]:
        yield idle_note(policy, idle)
    if policy.override:
        yield "the policy has overrides: bands are those of its own thresholds"
