"""Labels that people gave to images: what the columns of a file of labels mean.

A label is for one image and one category; what is not labelled is unknown, never negative.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moderate.analysis.label_files import Columns, normal_name, read_file, read_folder
from moderate.arrow import plain_value
from moderate.errors import InputError, UsageError
from moderate.fetch.naming import shown_text
from moderate.regular import sha256_of
from moderate.results.targets import SUFFIXES
from moderate.tables.lines import file_name
from moderate.text import one_line
from moderate.types import CATEGORIES, Decision

UNKNOWN = -1
"""Stands for no label; a positive one is 1, a negative one 0."""

DECISIONS: tuple[Decision, ...] = tuple(Decision)
"""The decisions that the numbers 0, 1 and 2 stand for in arrays."""

CURRENT_FOLDER = r"^(\./+)+"
"""A pattern for the start of paths that labels and results are compared without."""

_POSITIVE = ("1", "1.0", "true", "yes", "positive")
_NEGATIVE = ("0", "0.0", "false", "no", "negative")
_NO_LABEL = ("", "null", "unknown", "?", "none", "nan", "na", "n/a")
_TRUTH = (
    dict.fromkeys(_POSITIVE, 1) | dict.fromkeys(_NEGATIVE, 0) | dict.fromkeys(_NO_LABEL, UNKNOWN)
)
_EXPECTED = {decision.value: number for number, decision in enumerate(DECISIONS)} | dict.fromkeys(
    _NO_LABEL, UNKNOWN
)
_ID_COLUMNS = ("path", "sha256", "file")
_OF_A_SAMPLE = ("chosen_by", "chosen_for", "inclusion_probability")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
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
    values: Mapping[str, NDArray[np.int8]]
    expected: NDArray[np.int8]
    labelled: tuple[str, ...]
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


def read_labels(path: str, id_column: str | None = None, own: Sequence[str] = ()) -> Labels:
    """Labels in a .csv, .parquet or .jsonl file, or in a folder with a folder per label.

    Images are named by a column `path` or `sha256`, by `file` (relative to the file of labels), or
    by `id_column`. Labels are in columns named like the five categories or those of `own`, which
    the results have scores of, and in `decision`, or, one per
    line, in `category` and `label`, or as `testcards` writes them. Raises UsageError for another
    suffix, and InputError, with line and value, for what is not a label, for labels that contradict
    each other, and for a file or folder without labels.
    """
    shown = file_name(path)
    categories = (*CATEGORIES, *own)
    if os.path.isdir(path) and not path.lower().endswith(tuple(SUFFIXES)):
        if id_column is not None:
            raise UsageError("--id-column goes with a file of labels, not with a folder")
        read = read_folder(path, own)
    else:
        read = read_file(path)
    names = _names(shown, read.columns)
    named = id_column if id_column in read.columns else names.get(normal_name(id_column or ""))
    if id_column is None:
        # The digests in a list of test cards only say whether the cards are as they were written.
        order = ("file",) if {"file", "category", "band"} <= names.keys() else _ID_COLUMNS
        named = next((names[name] for name in order if name in names), None)
    if named is None:
        wanted = (
            f"column {one_line(id_column, 60)!r}" if id_column else "column path, sha256 or file"
        )
        hint = "" if id_column else "; name the column of ids (--id-column)"
        raise InputError(f"{shown} has no {wanted} but {_listed(read.columns)}{hint}")
    if not read.columns[named]:
        raise InputError(f"{shown} has no labels: there are no lines after the column names")
    by, ids = _ids(shown, read, named)
    if normal_name(named) == "file" and id_column is None:
        by, ids = _of_files(path, ids)
    line_labels = _line_labels(shown, read, names, named, categories)
    unique: dict[str, int] = {}
    codes = np.array([unique.setdefault(each, len(unique)) for each in ids], np.int64)
    texts = tuple(unique)
    merge = _Merge(shown, read.where, texts, codes)
    values = {
        category: merge.merged(str(category), line_labels.values[category])
        if category in line_labels.values
        else np.full(len(texts), UNKNOWN, np.int8)
        for category in categories
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
        labelled=tuple(name for name in categories if (values[name] != UNKNOWN).any()),
        ignored=line_labels.ignored,
        repeated=len(codes) - len(texts),
        blank=len(texts) - int(known.sum()),
        chosen_by=tuple(
            sorted({_text(value) for value in read.columns.get("chosen_by", ())} - {""})
        ),
        sampling=_sampling(shown, read, names, merge, known),
    )


class _LineLabels(NamedTuple):
    """Labels line by line, before lines about the same image are merged."""

    values: dict[str, NDArray[np.int8]]
    expected: NDArray[np.int8] | None
    ignored: tuple[str, ...]


def _line_labels(
    shown: str,
    read: Columns,
    names: Mapping[str, str],
    named: str,
    categories: Sequence[str],
) -> _LineLabels:
    used = {named}
    values: dict[str, NDArray[np.int8]] = {}
    for category in categories:
        if category in names:
            column = names[category]
            values[category] = _numbers(shown, read, column, _TRUTH, "1, 0 or empty")
            used.add(column)
    if {"file", "category", "band"} <= names.keys() and not values:
        values = _of_cards(shown, read, names["category"])
        used |= {names["category"], names["band"]}
    elif {"category", "label"} <= names.keys() and not values:
        values = _long(shown, read, names["category"], names["label"], categories)
        used |= {names["category"], names["label"]}
    expected = None
    if "decision" in names:
        column = names["decision"]
        expected = _numbers(shown, read, column, _EXPECTED, "approve, review, block or empty")
        used.add(column)
    if not values and expected is None:
        wanted = ", ".join(categories)
        raise InputError(
            f"{shown} has no column of labels ({wanted}, decision; or category and label) but "
            f"{_listed(read.columns)}"
        )
    used |= {*_ID_COLUMNS, *_OF_A_SAMPLE}
    ignored = tuple(name for name in read.columns if name not in used)
    return _LineLabels(values, expected, ignored)


def _long(
    shown: str, read: Columns, category: str, label: str, categories: Sequence[str]
) -> dict[str, NDArray[np.int8]]:
    by_name = {str(name): number for number, name in enumerate(categories)}
    which = _numbers(shown, read, category, by_name, f"one of {', '.join(categories)}")
    truth = _numbers(shown, read, label, _TRUTH, "1, 0 or empty")
    return {
        name: np.where(which == number, truth, UNKNOWN).astype(np.int8)
        for number, name in enumerate(categories)
        if (which == number).any()
    }


def _of_cards(shown: str, read: Columns, category: str) -> dict[str, NDArray[np.int8]]:
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
    shown: str, read: Columns, column: str, meanings: Mapping[str, int], wanted: str
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


def _ids(shown: str, read: Columns, column: str) -> tuple[str, list[str]]:
    """The column of the results that the ids belong to, and the ids."""
    ids = []
    for index, value in enumerate(read.columns[column]):
        empty = value is None or (isinstance(value, str) and not value.strip())
        if empty or isinstance(value, bool | float | bytes | list | dict):
            what = "is empty" if empty else "is not text"
            raise InputError(f"{read.where(index)} of {shown}: {one_line(column, 60)} {what}")
        ids.append(
            _shown_value(value).encode("utf-8", "backslashreplace").decode()
        )  # as results write it
    digest = normal_name(column) == "sha256"
    if digest:
        ids = [text.strip() for text in ids]
        wrong = next((i for i, text in enumerate(ids) if not _DIGEST.fullmatch(text)), None)
        if wrong is not None:
            reason = f"sha256: {one_line(ids[wrong], 40)!r} is not 64 hexadecimal digits"
            raise InputError(f"{read.where(wrong)} of {shown}: {reason}")
    elif normal_name(column) != "path":
        digest = all(map(_DIGEST.fullmatch, ids))
    if digest:
        return "sha256", [text.lower() for text in ids]
    current_folder = re.compile(CURRENT_FOLDER)
    by = "path" if normal_name(column) == "path" else column
    return by, [current_folder.sub("", shown_text(text)) for text in ids]


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
    shown: str, read: Columns, names: Mapping[str, str], merge: _Merge, known: NDArray[np.bool_]
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
        if names.setdefault(normal_name(column), column) != column:
            one, two = one_line(names[normal_name(column)], 60), one_line(column, 60)
            raise InputError(f"{shown} has two columns for the same: {one!r} and {two!r}")
    return names


def _text(value: Any) -> str:
    return "" if value is None else _shown_value(value).strip().lower()


def _shown_value(value: Any) -> str:
    is_scalar = hasattr(value, "cast")  # of Arrow, where Python has nothing equal to it
    return str(plain_value(value) if is_scalar else value)


def _listed(columns: Collection[str]) -> str:
    return ", ".join(repr(one_line(name, 40)) for name in list(columns)[:12])
