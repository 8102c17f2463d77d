"""Labels that people gave to images, read from a file and joined to the rows of a scan.

A label is for one image and one category; what is not labelled is unknown, never negative.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moderate.arrow import plain_value, python_values
from moderate.errors import InputError, UsageError
from moderate.regular import sha256_of
from moderate.results.read import Results
from moderate.results.targets import SUFFIXES
from moderate.tables.csv import strict_records, unguarded
from moderate.tables.jsonl import json_object
from moderate.tables.lines import file_name, text_lines, unreadable
from moderate.text import first_repeated, one_line
from moderate.types import CATEGORIES, Category, Decision, Status

UNKNOWN = -1
"""Stands for no label; a positive one is 1, a negative one 0."""

DECISIONS: tuple[Decision, ...] = tuple(Decision)
"""The decisions that the numbers 0, 1 and 2 stand for in arrays."""

_POSITIVE = ("1", "1.0", "true", "yes", "positive")
_NEGATIVE = ("0", "0.0", "false", "no", "negative")
_NO_LABEL = ("", "null", "unknown", "?", "none", "nan", "na", "n/a")
_TRUTH = (
    dict.fromkeys(_POSITIVE, 1) | dict.fromkeys(_NEGATIVE, 0) | dict.fromkeys(_NO_LABEL, UNKNOWN)
)
_EXPECTED = {decision.value: number for number, decision in enumerate(DECISIONS)} | dict.fromkeys(
    _NO_LABEL, UNKNOWN
)
_EXPECTED_NAMES = tuple(decision.value for decision in DECISIONS)
_ID_COLUMNS = ("path", "sha256", "file")
_NOTHING = ("safe", "none", "clean", "neutral", "negative", "sfw")
"""Names of folders whose images show none of the categories."""
_OF_A_SAMPLE = ("chosen_by", "chosen_for", "inclusion_probability")
_MAX_PARQUET_BYTES = 1 << 30  # of labels; one has some hundred bytes
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_CURRENT_FOLDER = r"^(\./+)+"
_SHOWN = 3  # ids that an error names
_MOST_GROUPS = 50  # of a sample by strata; one with more has probabilities of its own per image


@dataclass(frozen=True)
class Sampling:
    """How likely each of n labelled images was to be sampled.

    probabilities: float64 (n), over 0 and at most 1. groups: int64 (n), images that had the same
    chance for the same reason. drawn is how many images of each group the file has, also those
    without a known label.
    """

    probabilities: NDArray[np.float64]
    groups: NDArray[np.int64]
    drawn: NDArray[np.int64]

    @property
    def uniform(self) -> bool:
        """Whether all had the same chance."""
        return len(set(self.probabilities.tolist())) < 2

    def weights(self, known: NDArray[np.int64]) -> NDArray[np.float64]:
        """How many images each of these labelled ones (indices) stands for, 1 or more.

        Images of a group whose label is not known are stood for by the others of their group or,
        where most groups have one image alone, by all others.
        """
        weights: NDArray[np.float64] = 1 / self.probabilities[known]
        groups = self.groups[known]
        counts = np.bincount(groups, minlength=len(self.drawn))
        if len(self.drawn) > _MOST_GROUPS:
            weights *= self.drawn.sum() / max(len(known), 1)
        else:
            weights *= self.drawn[groups] / counts[groups]
        return weights


@dataclass(frozen=True)
class Labels:
    """Labels of images, each image once, in the order of the file.

    ids (n) are values of the results' column `by`, paths without a leading `./`. values holds, per
    category, an int8 array (n) of 1 positive, 0 negative, -1 unknown; expected (int8, n) is an
    index of DECISIONS, or -1. labelled are the categories with a label, ignored the columns without
    a meaning, repeated the number of lines about an earlier image. blank is the number of images
    without any known label; they are not among the n. chosen_by is how `moderate sample` chose the
    images, where the file has that column. sampling is None unless every image has an inclusion
    probability.
    """

    path: str
    by: str
    ids: tuple[str, ...]
    values: Mapping[Category, NDArray[np.int8]]
    expected: NDArray[np.int8]
    labelled: tuple[Category, ...]
    ignored: tuple[str, ...] = ()
    repeated: int = 0
    blank: int = 0
    chosen_by: tuple[str, ...] = ()
    sampling: Sampling | None = None

    @property
    def uneven(self) -> Sampling | None:
        """The sampling where estimates are weighted by it: one sample, with unequal chances."""
        if self.sampling is None or self.sampling.uniform or len(self.chosen_by) > 1:
            return None
        return self.sampling


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
    labels: Mapping[Category, NDArray[np.int8]]
    scores: Mapping[Category, NDArray[np.float32]]
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


class _Columns(NamedTuple):
    """A file as columns; `where` names the line or row of an index."""

    columns: dict[str, Sequence[Any]]
    where: Callable[[int], str]


def read_labels(path: str, id_column: str | None = None) -> Labels:
    """Labels in a .csv, .parquet or .jsonl file, or in a folder with a folder per label.

    Images are named by a column `path` or `sha256`, by `file` (relative to the file of labels), or
    by `id_column`. Labels are in columns named like the categories and in `decision`, or, one per
    line, in `category` and `label`, or as `testcards` writes them. Raises UsageError for another
    suffix, and InputError, with line and value, for what is not a label, for labels that contradict
    each other, and for a file or folder without labels.
    """
    shown = file_name(path)
    if os.path.isdir(path) and not path.lower().endswith(tuple(SUFFIXES)):
        if id_column is not None:
            raise UsageError("--id-column goes with a file of labels, not with a folder")
        read = _read_folder(path)
    else:
        read = _read(path)
    names = _names(shown, read.columns)
    named = id_column if id_column in read.columns else names.get(_normal(id_column or ""))
    if id_column is None:
        named = next((names[name] for name in _ID_COLUMNS if name in names), None)
    if named is None:
        wanted = (
            f"column {one_line(id_column, 60)!r}" if id_column else "column path, sha256 or file"
        )
        hint = "" if id_column else "; name the column of ids (--id-column)"
        raise InputError(f"{shown} has no {wanted} but {_listed(read.columns)}{hint}")
    if not read.columns[named]:
        raise InputError(f"{shown} has no labels: there are no lines after the column names")
    by, ids = _ids(shown, read, named)
    if _normal(named) == "file" and id_column is None:
        by, ids = _of_files(path, ids)
    line_labels = _line_labels(shown, read, names, named)
    unique: dict[str, int] = {}
    codes = np.array([unique.setdefault(each, len(unique)) for each in ids], np.int64)
    texts = tuple(unique)
    merge = _Merge(shown, read.where, texts, codes)
    values = {
        category: merge.merged(category.value, line_labels.values[category])
        if category in line_labels.values
        else np.full(len(texts), UNKNOWN, np.int8)
        for category in CATEGORIES
    }
    expected = np.full(len(texts), UNKNOWN, np.int8)
    if line_labels.expected is not None:
        expected = merge.merged("decision", line_labels.expected)
    known = np.stack([*values.values(), expected]).max(axis=0) != UNKNOWN
    if not known.any():
        raise InputError(f"{shown} labels nothing: every value is unknown")
    return Labels(
        path=path,
        by=by,
        ids=tuple(compress(texts, known)),
        values={category: array[known] for category, array in values.items()},
        expected=expected[known],
        labelled=tuple(name for name in CATEGORIES if (values[name] != UNKNOWN).any()),
        ignored=line_labels.ignored,
        repeated=len(codes) - len(texts),
        blank=len(texts) - int(known.sum()),
        chosen_by=tuple(
            sorted({_text(value) for value in read.columns.get("chosen_by", ())} - {""})
        ),
        sampling=_sampling(shown, read, names, merge, known),
    )


def join(labels: Labels, results: Results, columns: Collection[str] = ()) -> Joined:
    """The labelled rows of `results`, with some more columns of theirs.

    An image that has several rows gives each of them its label. Raises InputError where no label
    is of any row, naming one of each, and for what `Results.table` refuses.
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
    labels: Labels, category: Category, weights: NDArray[np.float64], table: Any
) -> str | None:
    """Why labels stand for other images than the results have; None where they do not.

    So it is where lines were taken out, where a whole group has no label, and where the file holds
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
    return texts if by == "sha256" else pc.replace_substring_regex(texts, _CURRENT_FOLDER, "")


def _copies(digests: Sequence[str | None]) -> NDArray[np.bool_]:
    seen: set[str] = set()
    copies = np.zeros(len(digests), np.bool_)
    for index, digest in enumerate(digests):
        if digest is not None:
            copies[index] = digest in seen
            seen.add(digest)
    return copies


class _LineLabels(NamedTuple):
    """Labels line by line, before lines about the same image are merged."""

    values: dict[Category, NDArray[np.int8]]
    expected: NDArray[np.int8] | None
    ignored: tuple[str, ...]


def _line_labels(shown: str, read: _Columns, names: Mapping[str, str], named: str) -> _LineLabels:
    used = {named}
    values: dict[Category, NDArray[np.int8]] = {}
    for category in CATEGORIES:
        if category in names:
            column = names[category]
            values[category] = _numbers(shown, read, column, _TRUTH, "1, 0 or empty")
            used.add(column)
    if {"file", "category", "band"} <= names.keys() and not values:
        values = _of_cards(shown, read, names["category"])
        used |= {names["category"], names["band"]}
    elif {"category", "label"} <= names.keys() and not values:
        values = _long(shown, read, names["category"], names["label"])
        used |= {names["category"], names["label"]}
    expected = None
    if "decision" in names:
        column = names["decision"]
        expected = _numbers(shown, read, column, _EXPECTED, "approve, review, block or empty")
        used.add(column)
    if not values and expected is None:
        wanted = ", ".join(CATEGORIES)
        raise InputError(
            f"{shown} has no column of labels ({wanted}, decision; or category and label) but "
            f"{_listed(read.columns)}"
        )
    used |= {*_ID_COLUMNS, *_OF_A_SAMPLE}
    ignored = tuple(name for name in read.columns if name not in used)
    return _LineLabels(values, expected, ignored)


def _long(
    shown: str, read: _Columns, category: str, label: str
) -> dict[Category, NDArray[np.int8]]:
    by_name = {name.value: number for number, name in enumerate(CATEGORIES)}
    which = _numbers(shown, read, category, by_name, f"one of {', '.join(CATEGORIES)}")
    truth = _numbers(shown, read, label, _TRUTH, "1, 0 or empty")
    return {
        name: np.where(which == number, truth, UNKNOWN).astype(np.int8)
        for number, name in enumerate(CATEGORIES)
        if (which == number).any()
    }


def _of_cards(shown: str, read: _Columns, category: str) -> dict[Category, NDArray[np.int8]]:
    """Labels of test cards: each shows the category that it names and no other, or none."""
    by_name = {name.value: number for number, name in enumerate(CATEGORIES)} | {"": UNKNOWN}
    which = _numbers(shown, read, category, by_name, f"one of {', '.join(CATEGORIES)}, or empty")
    return {name: (which == number).astype(np.int8) for number, name in enumerate(CATEGORIES)}


def _of_files(path: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Ids of files beside the file of labels: their digests or, where one is not there, paths.

    Results name the same file in one of many ways, and its bytes in one.
    """
    folder = os.path.dirname(path)
    files = [os.path.join(folder, name) for name in names]
    try:
        return "sha256", [sha256_of(file) for file in files]
    except (OSError, ValueError):
        return "path", [os.path.normpath(file) for file in files]


def _numbers(
    shown: str, read: _Columns, column: str, meanings: Mapping[str, int], wanted: str
) -> NDArray[np.int8]:
    """The meanings of a column's values. Raises InputError for the first without one."""
    known: dict[Any, int | None] = {}
    numbers = np.empty(len(read.columns[column]), np.int8)
    for index, value in enumerate(read.columns[column]):
        try:
            number = known[value]
        except KeyError:
            number = known[value] = meanings.get(_text(value))
        except TypeError:  # a list
            number = None
        if number is None:
            text = one_line(_shown_value(value), 40)
            reason = f"{one_line(column, 60)}: {text!r} is not a label; write {wanted}"
            raise InputError(f"{read.where(index)} of {shown}: {reason}")
        numbers[index] = number
    return numbers


def _ids(shown: str, read: _Columns, column: str) -> tuple[str, list[str]]:
    """The results' column that they are of, and the ids."""
    ids = []
    for index, value in enumerate(read.columns[column]):
        empty = value is None or (isinstance(value, str) and not value.strip())
        if empty or isinstance(value, bool | float | bytes | list | dict):
            what = "is empty" if empty else "is not text"
            raise InputError(f"{read.where(index)} of {shown}: {one_line(column, 60)} {what}")
        ids.append(
            _shown_value(value).encode("utf-8", "backslashreplace").decode()
        )  # as results have it
    digest = _normal(column) == "sha256"
    if digest:
        ids = [text.strip() for text in ids]
        wrong = next((i for i, text in enumerate(ids) if not _DIGEST.fullmatch(text)), None)
        if wrong is not None:
            reason = f"sha256: {one_line(ids[wrong], 40)!r} is not 64 hexadecimal digits"
            raise InputError(f"{read.where(wrong)} of {shown}: {reason}")
    elif _normal(column) != "path":
        digest = all(map(_DIGEST.fullmatch, ids))
    if digest:
        return "sha256", [text.lower() for text in ids]
    current_folder = re.compile(_CURRENT_FOLDER)
    by = "path" if _normal(column) == "path" else column
    return by, [current_folder.sub("", text) for text in ids]


class _Merge(NamedTuple):
    """Merges lines about the same image. codes are the lines' indices into ids."""

    shown: str
    where: Callable[[int], str]
    ids: Sequence[str]
    codes: NDArray[np.int64]

    def merged(self, what: str, values: NDArray[np.int8]) -> NDArray[np.int8]:
        """One value per image. Raises InputError where two known ones differ."""
        known = np.flatnonzero(values != UNKNOWN)
        values_by_image = np.full(len(self.ids), UNKNOWN, np.int8)
        values_by_image[self.codes[known]] = values[known]
        differing = known[values_by_image[self.codes[known]] != values[known]]
        if not len(differing):
            return values_by_image
        images = list(dict.fromkeys(self.codes[differing].tolist()))
        listed = ", ".join(repr(one_line(self.ids[code], 80)) for code in images[:_SHOWN])
        more = f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else ""
        first = known[self.codes[known] == images[0]]
        other = first[values[first] != values[first[0]]][0]
        lines = f"{self.where(int(first[0]))} and {self.where(int(other))}"
        raise InputError(
            f"{self.shown} contradicts itself about {what} of {listed}{more}: see {lines}"
        )


def _sampling(
    shown: str, read: _Columns, names: Mapping[str, str], merge: _Merge, known: NDArray[np.bool_]
) -> Sampling | None:
    """The inclusion probabilities of the known images; None where an image has none.

    Raises InputError for a value that is no probability, and for images with two of them.
    """
    if (column := names.get("inclusion_probability")) is None:
        return None
    reasons = read.columns.get(names.get("chosen_for", ""), [""] * len(merge.codes))
    groups: dict[tuple[str, float], int] = {}
    group_of = np.full(len(merge.ids), UNKNOWN, np.int64)
    for index, (value, reason) in enumerate(zip(read.columns[column], reasons, strict=True)):
        text = _text(value)
        if text in _NO_LABEL:
            return None
        try:
            probability = float(text)
        except ValueError:
            probability = 0.0
        if not 0 < probability <= 1:
            what = f"{one_line(column, 60)}: {one_line(text, 40)!r}"
            wanted = "is not a probability over 0 and at most 1"
            raise InputError(f"{read.where(index)} of {shown}: {what} {wanted}")
        group = groups.setdefault((_text(reason), probability), len(groups))
        image = merge.codes[index]
        if group_of[image] not in (UNKNOWN, group):
            raise InputError(
                f"{read.where(index)} of {shown}: {one_line(merge.ids[image], 80)!r} is there with "
                "two inclusion probabilities: the file holds several samples; draw one sample of "
                "both kinds ('moderate sample --by band --random N')"
            )
        group_of[image] = group
    probabilities = np.array([probability for _, probability in groups], np.float64)
    drawn = np.bincount(group_of, minlength=len(groups))
    return Sampling(probabilities[group_of[known]], group_of[known], drawn)


def _names(shown: str, columns: Mapping[str, Any]) -> dict[str, str]:
    """Columns by their names in lower case, with `_` between words."""
    names: dict[str, str] = {}
    for column in columns:
        if names.setdefault(_normal(column), column) != column:
            one, two = one_line(names[_normal(column)], 60), one_line(column, 60)
            raise InputError(f"{shown} has two columns for the same: {one!r} and {two!r}")
    return names


def _normal(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def _text(value: Any) -> str:
    return "" if value is None else _shown_value(value).strip().lower()


def _shown_value(value: Any) -> str:
    is_scalar = hasattr(value, "cast")  # of Arrow, where Python has nothing equal to it
    return str(plain_value(value) if is_scalar else value)


def _listed(columns: Collection[str]) -> str:
    return ", ".join(repr(one_line(name, 40)) for name in list(columns)[:12])


# Files ------------------------------------------------------------------------------------------


def _read(path: str) -> _Columns:
    suffix = next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), None)
    if suffix is None:
        raise UsageError(
            f"{file_name(path)} is not a file of labels: the suffix is one of "
            f"{', '.join(SUFFIXES)}; a folder with a folder per label will do, too"
        )
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    try:
        if not os.path.isfile(path):
            os.stat(path)
            raise InputError(f"cannot read {file_name(path)}: not a regular file")
        if not os.path.getsize(path):
            raise InputError(f"{file_name(path)} is empty: it has no labels")
        return readers[suffix](path)
    except (OSError, ValueError) as error:
        raise unreadable(file_name(path), error) from None


def _read_folder(path: str) -> _Columns:
    """The files of a folder that has a folder per label, by their digests.

    A folder is named like a category (its images show it, and others are unknown), like a decision
    (the one expected), or `safe`, `none` and the like (they show no category). Folders in it may be
    of any name.
    """
    shown = file_name(path)
    categories = {name.value for name in CATEGORIES}
    known = f"{', '.join((*CATEGORIES, *_EXPECTED_NAMES))}, or {', '.join(_NOTHING)}"
    rows: list[dict[str, str]] = []
    files: list[str] = []
    try:
        folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        for name in folders:
            label = _normal(name)
            if label in _NOTHING:
                labels = dict.fromkeys(categories, "0")
            elif label in categories:
                labels = {label: "1"}
            elif label in _EXPECTED_NAMES:
                labels = {"decision": label}
            else:
                raise InputError(f"{shown}: the folder {one_line(name, 40)!r} is no label: {known}")
            for file in _files_below(os.path.join(path, name)):
                rows.append({"sha256": sha256_of(file), **labels})
                files.append(file_name(file))
    except OSError as error:
        raise unreadable(shown, error) from None
    if not rows:
        raise InputError(f"{shown} has no labels: put images into folders named {known}")
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Sequence[Any]] = {name: [row.get(name) for row in rows] for name in names}
    return _Columns(columns, lambda index: files[index])


def _files_below(folder: str) -> Iterator[str]:
    """All regular files, sorted, but for hidden ones; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(root, name)
            if not name.startswith(".") and os.path.isfile(file) and not os.path.islink(file):
                yield file


def _read_csv(path: str) -> _Columns:
    lines: list[int] = []
    rows: list[list[str]] = []
    with open(path, "rb") as file:
        records = strict_records(file, file_name(path))
        _, header = next(records, (0, ()))
        for line, cells in records:
            rows.append([unguarded(cell) for cell in cells])
            lines.append(line)
    if (repeated := first_repeated(header)) is not None:
        raise InputError(f"{file_name(path)} has two columns {one_line(repeated, 60)!r}")
    cells_of: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(header)
    return _Columns(dict(zip(header, cells_of, strict=True)), lambda index: f"line {lines[index]}")


def _read_jsonl(path: str) -> _Columns:
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text_lines(os.fsencode(path), file_name(path)), 1):
        if not line.strip():
            continue
        try:
            rows.append(json_object(line))
        except ValueError as error:
            raise InputError(f"line {number} of {file_name(path)}: {error}") from None
        lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Sequence[Any]] = {name: [row.get(name) for row in rows] for name in names}
    if not columns:
        raise InputError(f"{file_name(path)} is empty: it has no labels")
    return _Columns(columns, lambda index: f"line {lines[index]}")


def _read_parquet(path: str) -> _Columns:
    import pyarrow as pa

    from moderate.tables.parquet import open_parquet

    try:
        with open_parquet(os.fsencode(path)) as file:
            names = file.schema.names
            if (twice := first_repeated(names)) is not None:
                raise InputError(f"{file_name(path)} has two columns {one_line(twice, 60)!r}")
            fields = [(name, file.schema.field(name).type) for name in names]
            wanted = [name for name, kind in fields if not pa.types.is_nested(kind)]
            columns: dict[str, list[Any]] = {name: [] for name in wanted}
            size = 0
            for batch in file.batches(wanted):
                size += batch.nbytes
                if size > _MAX_PARQUET_BYTES:
                    limit = f"{_MAX_PARQUET_BYTES >> 20} MiB"
                    raise InputError(f"{file_name(path)} holds more than {limit}")
                for name, array in zip(wanted, batch.columns, strict=True):
                    columns[name] += python_values(array)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = one_line(str(error))
        raise InputError(f"{file_name(path)} is not readable Parquet: {reason}") from None
    return _Columns({**columns}, lambda index: f"row {index + 1}")
