"""What decisions again come to: counts of a summary, and the types of the columns written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moderate.analysis.decide_by_policy import Counted
from moderate.analysis.pieces import Piece
from moderate.policy.batch import UNKNOWN_ERROR
from moderate.policy.thresholds import BANDS, DECISIONS, band_counts
from moderate.results.read import Results
from moderate.results.read_format import Chunk
from moderate.results.targets import has_metadata, to_stdout
from moderate.run.summary import EXAMPLES_KEPT, Finding, Summary, name_counted
from moderate.types import Column


def count_rows(summary: Summary, piece: Piece, decided: Counted) -> None:
    """Take rows into the counts, as `Summary.count` does one by one."""
    summary.rows += len(piece)
    for severity, count in enumerate(np.bincount(decided.severity, minlength=len(DECISIONS))):
        summary.decisions[DECISIONS[severity]] += int(count)
    for decision, listed in summary.findings.items():
        missing = max(summary.max_listed - len(listed), 0)
        for index in np.flatnonzero(decided.severity == decision.severity)[:missing].tolist():
            reasons = decided.reasons.values[decided.reasons.codes[index]]
            listed.append(Finding(piece.own["path"][index].as_py(), decision, "; ".join(reasons)))
    for cell in pc.value_counts(piece.own["warnings"]).to_pylist():
        for warning in (cell["values"] or "").split("; ") if cell["values"] else ():
            summary.warnings[name_counted(warning, summary.warnings)] += cell["counts"]
    failed = np.flatnonzero(piece.failed)
    summary.errors += len(failed)
    scored = decided.bands[:, ~piece.failed]
    for counts, bands in zip(summary.bands.values(), scored, strict=True):
        for band, count in zip(BANDS, band_counts(bands), strict=True):
            counts[band] += count
    if not len(failed):
        return
    codes = piece.own["error_code"].take(pa.array(failed)).fill_null(UNKNOWN_ERROR).to_pylist()
    for index, code in zip(failed.tolist(), codes, strict=True):
        name = name_counted(code, summary.error_codes)
        summary.error_codes[name] += 1
        examples = summary.error_examples.setdefault(name, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(piece.own["path"][index].as_py())


def count_ratings(summary: Summary, column: Any) -> None:
    """Take the column `rating` of some rows into the counts, where ratings are counted."""
    if not summary.levels:
        return
    for cell in pc.value_counts(column).to_pylist():
        if cell["values"] is not None:
            summary.ratings[name_counted(cell["values"], summary.ratings)] += cell["counts"]


def written_columns(results: Results, targets: Sequence[str]) -> list[Column]:
    """The carried columns with the types that a Parquet file is to have them in."""
    if not any(not to_stdout(t) and not has_metadata(t) for t in targets):
        return [Column(name, pa.string()) for name in results.carried]
    if results.path.lower().endswith(".parquet"):
        schema = results.schema
        return [Column(name, schema.field(name).type) for name in results.carried]
    if results.path.lower().endswith(".csv"):
        return [Column(name, pa.string()) for name in results.carried]
    return [Column(name, kind) for name, kind in json_types(results).items()]


def json_types(results: Results) -> dict[str, Any]:
    """What holds all values of a carried column of JSON Lines; text where nothing else does."""
    types = dict.fromkeys(results.carried, pa.null())
    for chunk in results.chunks() if results.carried else ():
        types = {name: _common(kind, chunk, name) for name, kind in types.items()}
    return {name: kind if _fits_parquet(kind) else pa.string() for name, kind in types.items()}


def _fits_parquet(kind: Any) -> bool:
    """Whether Parquet can hold a column of the type; it has none for an object without a key."""
    if kind == pa.null():
        return False
    try:
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([pa.field("x", kind)])).close()
    except pa.ArrowException:
        return False
    return True


def _common(kind: Any, chunk: Chunk, name: str) -> Any:
    try:
        found = pa.array(chunk.carried(name)).type
        fields = [pa.schema([pa.field("x", each)]) for each in (kind, found)]
        return pa.unify_schemas(fields, promote_options="permissive").field("x").type
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.string()
