"""What is trained on: images with labels, each content once, and how to read them again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.analysis.label_files import NOTHING, files_below, normal_name
from moderate.analysis.labelled_rows import join
from moderate.analysis.labels import UNKNOWN, read_labels
from moderate.errors import InputError, UsageError
from moderate.own_categories import is_own_name
from moderate.regular import sha256_of
from moderate.results.read import Results
from moderate.tables.lines import file_name, unreadable
from moderate.text import nearest, one_line
from moderate.types import CATEGORIES, Status

NO_DIGEST = "no digest"
"""Why images of results without digests are left out."""

SAFE = "safe"
"""Stands in `--map` for what shows none of the categories."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many labelled images are not trained on, and why.

    duplicates are copies of an image that is; contradicted are contents that labels disagree about.
    reasons counts error codes, and why originals could not be read.
    """

    duplicates: int = 0
    contradicted: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def with_reasons(self, more: Mapping[str, int]) -> LeftOut:
        """The same with further reasons."""
        return replace(self, reasons=dict(sorted((Counter(self.reasons) + Counter(more)).items())))


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled images, each content once, in the order of their digests (64 hexadecimal digits).

    rows (n) are what `Originals.read` takes. truth holds per category int8 (n): 1 positive, 0
    negative, -1 unknown. weights (float64, n) are how many images each stands for, 1 or more; None
    where they are all alike. notes are for whoever reads the figures. scores are those of the
    results (float32, n, NaN where there are none) by category, and results_sha256 is the digest of
    the weights that they are of.
    """

    digests: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    truth: Mapping[str, NDArray[np.int8]]
    weights: NDArray[np.float64] | None
    left_out: LeftOut
    source: str
    notes: tuple[str, ...] = ()
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    weights_sha256: str | None = None

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, kept: NDArray[np.bool_], reasons: Mapping[str, int]) -> Labelled:
        """Those of a mask; reasons count why the others are left out."""
        places = np.flatnonzero(kept)
        return replace(
            self,
            digests=tuple(self.digests[place] for place in places),
            rows=tuple(self.rows[place] for place in places),
            truth={name: values[kept] for name, values in self.truth.items()},
            weights=None if self.weights is None else self.weights[kept],
            scores={name: values[kept] for name, values in self.scores.items()},
            left_out=self.left_out.with_reasons(reasons),
        )


def check_categories(names: Sequence[str]) -> tuple[str, ...]:
    """Names of categories to train, each once. Raises UsageError for what is no such name."""
    for name in names:
        if not _is_name(name):
            raise UsageError(
                f"{one_line(repr(name), 60)} is no name for a category: use small letters, digits "
                "and '_', a letter first, 40 of them at the most, and no column of results"
            )
    return tuple(dict.fromkeys(names))


def from_results(
    results: Results, labels_file: str, categories: Sequence[str], id_column: str | None = None
) -> Labelled:
    """The labelled rows of results; without `categories`, those of the five that are labelled.

    Raises InputError, also where a category has no label at all.
    """
    own = tuple(name for name in categories if name not in tuple(CATEGORIES))
    labels = read_labels(labels_file, id_column, own)
    trained = tuple(categories) or tuple(map(str, labels.labelled))
    if not trained:
        raise InputError(
            f"{file_name(labels_file)} labels none of {', '.join(CATEGORIES)}; name categories of "
            "your own with --category"
        )
    columns = [name for name in ("path", "path_bytes", "uri", "sha256") if name in results.columns]
    joined = join(labels, results, [*columns, "error_code"])
    values = {name: labels.values[name][joined.of] for name in trained}
    known = np.zeros(len(joined), np.bool_)
    for of_category in values.values():
        known |= of_category != UNKNOWN
    reasons: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    for place, row in enumerate(joined.columns.to_pylist()):
        if not known[place]:
            continue
        if joined.errors[place]:
            reasons[str(row.get("error_code") or Status.ERROR.value)] += 1
        elif row.get("sha256") is None:
            reasons[NO_DIGEST] += 1
        else:
            rows.append(row)
            places.append(place)
    chosen = np.array(places, np.int64)
    weights = None
    if labels.uneven is not None and len(chosen):
        weights = np.maximum(labels.uneven.weights(joined.of[chosen]), 1.0)
    notes = []
    if labels.chosen_by and labels.sampling is None and labels.chosen_by != ("random",):
        notes.append(
            f"the labels are of images chosen by {', '.join(labels.chosen_by)}: the figures are of "
            "such images, not of all"
        )
    if joined.unmatched:
        notes.append(f"{joined.unmatched} labels are of images that the results do not have")
    if weights is not None:
        notes.append("images are weighted by their inclusion probabilities")
    return _distinct(
        [str(row["sha256"]) for row in rows],
        rows,
        {name: of_category[chosen] for name, of_category in values.items()},
        weights,
        reasons,
        source=f"{file_name(labels_file)} and {file_name(results.path)}",
        notes=notes,
        scores={str(name): array[chosen] for name, array in joined.scores.items()},
        weights_sha256=results.facts.get("weights_sha256"),
    )


def from_folders(
    folder: str, categories: Sequence[str], mapping: Mapping[str, Sequence[str]]
) -> Labelled:
    """The images of a folder that has a folder per label.

    A folder's images are positive in the category that it is named like, and unknown in others;
    those of `safe`, `none` and the like are negative in every category. mapping has names of
    folders per category, or per `safe`. Raises InputError for a folder without a meaning.
    """
    shown = file_name(folder)
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        names = [name for name in names if not name.startswith(".")]
        meanings = _meanings(shown, names, mapping)
        trained = tuple(categories) or _in_order(meanings.values())
        digests: list[str] = []
        rows: list[dict[str, Any]] = []
        shows: list[str | None] = []
        for name in names:
            meaning = meanings[name]
            if meaning is not None and meaning not in trained:
                continue
            for file in files_below(os.path.join(folder, name)):
                digests.append(sha256_of(file))
                rows.append({"path": file, "path_bytes": os.fsencode(file), "sha256": digests[-1]})
                shows.append(meaning)
    except OSError as error:
        raise unreadable(shown, error) from None
    if not rows or not trained:
        raise InputError(
            f"{shown} has no labelled images: put them into folders that are named like the "
            f"categories, and into a folder '{SAFE}'"
        )
    truth = {
        name: np.array(
            [1 if each == name else 0 if each is None else UNKNOWN for each in shows], np.int8
        )
        for name in trained
    }
    return _distinct(digests, rows, truth, None, Counter(), source=shown)


def read_map(options: Sequence[str]) -> dict[str, list[str]]:
    """What `--map CATEGORY=FOLDER,...` was given, by category. Raises UsageError."""
    mapping: dict[str, list[str]] = {}
    for option in options:
        name, equals, folders = option.partition("=")
        named = [each.strip() for each in folders.split(",") if each.strip()]
        if not equals or not named:
            raise UsageError(f"--map {one_line(option, 60)}: write CATEGORY=FOLDER,...")
        if name.strip() != SAFE:
            check_categories([name.strip()])
        mapping.setdefault(name.strip(), []).extend(named)
    folders_named = [each for named in mapping.values() for each in named]
    twice = next((each for each in folders_named if folders_named.count(each) > 1), None)
    if twice is not None:
        raise UsageError(f"--map names the folder {one_line(twice, 60)!r} twice")
    return mapping


def _meanings(
    shown: str, names: Sequence[str], mapping: Mapping[str, Sequence[str]]
) -> dict[str, str | None]:
    """The category that each folder's images show; None where they show none."""
    mapped = {folder: name for name, folders in mapping.items() for folder in folders}
    if unknown := [name for name in mapped if name not in names]:
        close = nearest(unknown[0], names)
        hint = f"; did you mean {close!r}?" if close else ""
        raise InputError(f"{shown} has no folder {one_line(unknown[0], 60)!r}{hint}")
    meanings: dict[str, str | None] = {}
    for name in names:
        label = mapped.get(name, normal_name(name))
        if label in NOTHING:
            meanings[name] = None
        elif _is_name(label):
            meanings[name] = label
        else:
            raise InputError(
                f"{shown}: the folder {one_line(name, 40)!r} is no name for a category; say what "
                f"it shows with --map CATEGORY={one_line(name, 40)}"
            )
    return meanings


def _is_name(name: str) -> bool:
    return name in CATEGORIES or is_own_name(name)


def _in_order(names: Iterable[str | None]) -> tuple[str, ...]:
    """Distinct categories: the five first."""
    found = {name for name in names if name is not None}
    five = [name.value for name in CATEGORIES if name.value in found]
    return (*five, *sorted(found - set(five)))


def _distinct(
    digests: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    truth: Mapping[str, NDArray[np.int8]],
    weights: NDArray[np.float64] | None,
    reasons: Mapping[str, int],
    *,
    source: str,
    notes: Sequence[str] = (),
    scores: Mapping[str, NDArray[np.float32]] | None = None,
    weights_sha256: str | None = None,
) -> Labelled:
    """Each content once, so that no copy is on both sides of a split.

    What one copy is labelled goes for all; a content whose copies are labelled differently is left
    out.
    """
    unique = {digest: place for place, digest in enumerate(sorted(set(digests)))}
    codes = np.array([unique[digest] for digest in digests], np.int64)
    count = len(unique)
    first = np.full(count, -1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    merged: dict[str, NDArray[np.int8]] = {}
    contradicted = np.zeros(count, np.bool_)
    for name, values in truth.items():
        positive = np.bincount(codes, values == 1, count) > 0
        negative = np.bincount(codes, values == 0, count) > 0
        contradicted |= positive & negative
        merged[name] = np.where(positive, 1, np.where(negative, 0, UNKNOWN)).astype(np.int8)
    everything = Labelled(
        digests=tuple(unique),
        rows=tuple(rows[place] for place in first.tolist()),
        truth=merged,
        weights=None if weights is None else weights[first],
        left_out=LeftOut(
            duplicates=len(digests) - count,
            contradicted=int(contradicted.sum()),
            reasons=dict(sorted(reasons.items())),
        ),
        source=source,
        notes=tuple(notes),
        scores={name: values[first] for name, values in (scores or {}).items()},
        weights_sha256=weights_sha256,
    )
    return everything.take(~contradicted, {})
