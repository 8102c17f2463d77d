"""The rows of results that have labels: scores and labels side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.analysis.labels import CURRENT_FOLDER, DECISIONS, Labels
from moderate.errors import InputError
from moderate.fetch.naming import shown_text
from moderate.results.read import Results
from moderate.tables.lines import file_name
from moderate.text import one_line
from moderate.types import CATEGORIES, Status


@dataclass(frozen=True)
class Joined:
    """The rows of results that have a label, in their order: arrays of n, one value per row.

    rows: indices in the results, from 0. labels: int8 per category as in `Labels`. scores: float32
    per category, NaN where not scored. expected and decisions: int8, index of DECISIONS (expected
    may be -1). errors: the row has an error, and so no scores. copies: an earlier one of these rows
    has the same bytes. columns: the further columns, an Arrow table. unmatched: the number of
    labels without a row. unlabelled: the number of rows without a label. of: the index of each
    row's label among the labels.
    """

    rows: NDArray[np.int64]
    paths: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int8]]
    scores: Mapping[str, NDArray[np.float32]]
    expected: NDArray[np.int8]
    decisions: NDArray[np.int8]
    errors: NDArray[np.bool_]
    copies: NDArray[np.bool_]
    columns: Any
    unmatched: int
    unlabelled: int
    of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def join(labels: Labels, results: Results, columns: Collection[str] = ()) -> Joined:
    """The labelled rows of `results`, with some more of their columns.

    An image that has several rows gives each of them its label. Raises InputError where no label
    belongs to any row, naming one of each, and where `Results.table` does.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    own = ["path", "sha256", "status", "decision", *CATEGORIES]
    extra = [name for name in dict.fromkeys(columns) if name not in own]
    by = labels.by
    if by not in own:
        by = by if by in results.carried else "path"
        extra += [by] if by not in [*own, *extra] else []
    table = results.table([*own, *extra])
    if not table.num_rows:
        raise InputError(f"{file_name(results.path)} has no rows")
    row_ids = _row_ids(table[by], by)
    label_index = pc.index_in(row_ids, pa.array(labels.ids, pa.string())).combine_chunks()
    label_index = label_index.to_numpy(zero_copy_only=False).astype(np.float64)
    rows = np.flatnonzero(~np.isnan(label_index)).astype(np.int64)
    if not len(rows):
        one = next((text for text in row_ids.to_pylist() if text), "none at all")
        raise InputError(
            f"no label of {file_name(labels.path)} is of a row of {file_name(results.path)}: the "
            f"labels have {by} {one_line(labels.ids[0], 80)!r}, the rows {one_line(one, 80)!r}"
        )
    labels_used = label_index[rows].astype(np.int64)
    table = table.take(pa.array(rows))
    digests = table["sha256"].to_pylist()
    numbers = {decision.value: number for number, decision in enumerate(DECISIONS)}
    return Joined(
        rows=rows,
        paths=tuple(table["path"].to_pylist()),
        labels={name: values[labels_used] for name, values in labels.values.items()},
        scores={name: table[name].to_numpy().astype(np.float32) for name in CATEGORIES},
        expected=labels.expected[labels_used],
        decisions=np.array([numbers[text] for text in table["decision"].to_pylist()], np.int8),
        errors=np.array([text != Status.OK for text in table["status"].to_pylist()], np.bool_),
        copies=_copies(digests),
        columns=table.select(list(dict.fromkeys(columns))),
        unmatched=len(labels.ids) - len(np.unique(labels_used)),
        unlabelled=len(row_ids) - len(rows),
        of=labels_used,
    )


def misrepresented(
    labels: Labels, category: str, weights: NDArray[np.float64], table: Any
) -> str | None:
    """Why labels stand for other images than those in the results; None where they do not.

    They do where lines were taken out, where a whole group has no label, and where the file holds
    several samples. weights are those of the labelled rows; the Arrow table has path, sha256,
    status and the categories. Images are sampled from those with a score for any category, or for
    one.
    """
    assert labels.sampling is not None
    scores = np.stack([table[name].to_numpy() for name in CATEGORIES])
    own = np.isnan(table[category].to_numpy())
    counts = [_distinct(table, ~missing) for missing in (np.isnan(scores).all(axis=0), own)]
    total = float(weights.sum())
    # Groups of a sample by strata add up; where each image has a chance of its own, the sum varies.
    varies = len(labels.sampling.drawn) > len(weights) / 2
    slack = 5 * float((weights * (weights - 1)).sum()) ** 0.5 if varies else 0.0
    if any(abs(total - count) <= max(0.02 * count, slack) for count in counts):
        return None
    return (
        f"{file_name(labels.path)}: by their inclusion probabilities, the labels of {category} "
        f"stand for {total:,.0f} images, and the results have {counts[0]:,}: label some images of "
        "every group of the sample, keep all its lines, and do not join samples"
    )


def _distinct(table: Any, rows: NDArray[np.bool_]) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pc.coalesce(table["sha256"], table["path"])
    fine = pc.equal(table["status"], Status.OK.value).to_numpy() & rows
    return int(pc.count_distinct(ids.filter(pa.array(fine))).as_py())


def _row_ids(column: Any, by: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        texts = column.cast(pa.string())
    except pa.ArrowException:
        raise InputError(f"column {one_line(by, 60)!r} of the results holds no ids") from None
    if by == "sha256":
        return texts
    # Columns that a run carried unchanged may hold URLs with secrets; labels are without them.
    is_url = pc.fill_null(pc.match_substring(texts, "://"), False)
    if pc.any(is_url).as_py():
        masked = [shown_text(text) for text in texts.filter(is_url).to_pylist()]
        combined = pa.concat_arrays(texts.chunks)
        mask = pa.concat_arrays(is_url.chunks)
        texts = pc.replace_with_mask(combined, mask, pa.array(masked, pa.string()))
        texts = pa.chunked_array([texts])
    return pc.replace_substring_regex(texts, CURRENT_FOLDER, "")


def _copies(digests: Sequence[str | None]) -> NDArray[np.bool_]:
    seen: set[str] = set()
    copies = np.zeros(len(digests), np.bool_)
    for index, digest in enumerate(digests):
        if digest is not None:
            copies[index] = digest in seen
            seen.add(digest)
    return copies
