"""Which scored images to label: the undecided ones, a random sample, or so many of each band."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moderate.errors import InputError
from moderate.own_categories import category_named
from moderate.policy.model import Policy
from moderate.policy.thresholds import score_bands
from moderate.results.read import Results
from moderate.tables.csv import guarded
from moderate.text import printable
from moderate.types import CATEGORIES, Decision, Status

By = Literal["uncertainty", "random", "band"]


def header(own: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns of a template: those of categories, five and own ones, are for whoever labels."""
    return (
        *("path", "sha256", *(category.value for category in CATEGORIES), *own),
        *("chosen_by", "chosen_for", "inclusion_probability"),
    )


HEADER = header()
"""Those where there are no own categories."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One image to label. reason says for which category or band it was taken.

    probability is how likely this image was to be taken, None where it was no matter of chance.
    """

    path: str
    sha256: str | None
    reason: str
    probability: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """The images to label, in the order to label them, and how many were there to choose from.

    errors, duplicates and unscored are rows that were left out. by is how they were chosen:
    `band`, or `band+random` of a mixture. own are the results' own categories.
    """

    by: str
    chosen: tuple[Chosen, ...]
    eligible: int
    errors: int
    duplicates: int
    unscored: int
    own: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows to choose from, as Arrow columns; `scores` has each category's, NaN: not scored.

    decisions are numbers: of Decision, mildest first. order is random, but an image's own;
    other_order is another, which has nothing to do with it.
    """

    paths: Any
    digests: Any
    decisions: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float32]]
    order: NDArray[np.uint64]
    other_order: NDArray[np.uint64]

    def chosen(self, row: int, reason: str, probability: float | None) -> Chosen:
        """What is told of a row."""
        path, digest = self.paths[row].as_py(), self.digests[row].as_py()
        return Chosen(path, digest, reason, probability)


def sample(
    results: Results,
    policy: Policy,
    *,
    by: By,
    count: int,
    seed: int = 0,
    category: str | None = None,
    random: int = 0,
) -> Sample:
    """Choose `count` images (with band: of each band), by these categories or this one.

    random is how many more are chosen by chance alone, which makes a mixture. The same for the same
    seed, however the rows are ordered. Raises InputError where there is nothing to choose from.
    """
    if category is not None:
        category = category_named("--category", category, results.categories)
        if by != "random" and policy.limits(category) is None:
            raise InputError(
                f"--category {category}: policy {printable(policy.name)} has no thresholds for it"
            )
    rows, left_out = _eligible(results, seed, category)
    considered = results.categories if category is None else (category,)
    if by == "random":
        chosen = _random(rows, np.arange(len(rows.order)), count + random, "all")
    elif by == "band":
        chosen = _by_band(rows, policy, count, category, random)
    else:
        chosen = _uncertain(rows, policy, count, considered, random)
    how = f"{by}+random" if random and by != "random" else by
    return Sample(how, tuple(chosen), len(rows.order), *left_out, results.own_categories)


def as_csv(taken: Sample) -> str:
    """A template: a row an image, with empty columns for the labels (1, 0, or empty: unknown)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header(taken.own))
    for one in taken.chosen:
        probability = "" if one.probability is None else repr(one.probability)
        unknown = [""] * (len(CATEGORIES) + len(taken.own))
        named = [guarded(one.path), guarded(one.sha256 or "")]
        writer.writerow([*named, *unknown, taken.by, one.reason, probability])
    return buffer.getvalue()


def order_of(identity: str, seed: int) -> int:
    """A number that is random for a seed but always the same for an image: 64 bits."""
    digest = hashlib.blake2b(f"{seed} {identity}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _eligible(
    results: Results, seed: int, category: str | None
) -> tuple[_Rows, tuple[int, int, int]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = ["path", "sha256", "status", "decision", "duplicate_of", *results.categories]
    table = results.table(names).combine_chunks()
    if not table.num_rows:
        raise InputError(f"{printable(results.path)} has no rows to choose from")
    scores = {
        name: table[name].to_numpy().astype(np.float32, copy=False) for name in results.categories
    }
    counted = list(scores.values()) if category is None else [scores[category]]
    scored = ~np.isnan(counted).all(axis=0)
    fine = pc.equal(table["status"], Status.OK.value).to_numpy()
    first = pc.is_null(table["duplicate_of"]).to_numpy()
    rows = np.flatnonzero(fine & scored & first)
    identities = pc.coalesce(table["sha256"], table["path"]).take(pa.array(rows)).to_pylist()
    if len(set(identities)) < len(identities):
        # Copies of other runs, in a file put together of several: the least path stays.
        paths = table["path"].take(pa.array(rows)).to_pylist()
        least: dict[str, int] = {}
        for index, identity in enumerate(identities):
            if paths[index] <= paths[least.setdefault(identity, index)]:
                least[identity] = index
        kept = sorted(least.values())
        rows, identities = rows[kept], [identities[index] for index in kept]
    if not len(rows):
        where = f" for {category}" if category else ""
        raise InputError(f"{printable(results.path)} has no image that was scored{where}")
    taken = table.select(["path", "sha256", "decision"]).take(pa.array(rows)).combine_chunks()
    decisions = pc.index_in(taken["decision"], pa.array([d.value for d in Decision])).to_numpy()
    order, other_order = (
        np.fromiter((order_of(text, each) for text in identities), np.uint64, len(rows))
        for each in (seed, ~seed)
    )
    errors, unscored = int((~fine).sum()), int((fine & ~scored).sum())
    duplicates = table.num_rows - errors - unscored - len(rows)
    of_rows = {name: values[rows] for name, values in scores.items()}
    chosen_from = _Rows(taken["path"], taken["sha256"], decisions, of_rows, order, other_order)
    return chosen_from, (errors, duplicates, unscored)


def _random(rows: _Rows, among: NDArray[np.int64], count: int, reason: str) -> list[Chosen]:
    taken = among[np.argsort(rows.order[among], kind="stable")[:count]].tolist()
    probability = len(taken) / max(len(among), 1)
    return [rows.chosen(row, reason, probability) for row in taken]


def _by_band(
    rows: _Rows, policy: Policy, count: int, category: str | None, random: int
) -> list[Chosen]:
    """So many of each band, and of all images: each of a band has the same chance as the others.

    Of a mixture that holds given how many of the band there came to be, and their share of it is
    the probability: all sets of so many images of the band are equally likely.
    """
    bands = rows.decisions
    if category is not None and (limits := policy.limits(category)):
        scores = rows.scores[category]
        bands = score_bands(scores, limits.review, limits.block).astype(np.int64)
    prefix = f"{category} " if category else ""
    chosen: list[Chosen] = []
    at_random = np.zeros(len(rows.order), bool)
    at_random[np.argsort(rows.other_order, kind="stable")[:random]] = True
    for number, decision in enumerate(Decision):
        among = np.flatnonzero(bands == number)
        ordered = among[np.argsort(rows.order[among], kind="stable")]
        taken = [*ordered[:count], *(row for row in ordered[count:] if at_random[row])]
        probability = len(taken) / max(len(among), 1)
        reason = f"{prefix}{decision.value}"
        chosen += [rows.chosen(int(row), reason, probability) for row in taken]
    return chosen


def _uncertain(
    rows: _Rows, policy: Policy, count: int, categories: Sequence[str], random: int
) -> list[Chosen]:
    """In turn, each category's image that is nearest to one of its thresholds.

    With others at random, these were certain to be taken, and each of the others had the same
    chance.
    """
    queues = []
    for category in categories:
        if (limits := policy.limits(category)) is None:
            continue  # an own category that decides nothing has no threshold to be near to
        scores = rows.scores[category].astype(np.float64)
        distance = np.minimum(abs(scores - limits.review), abs(scores - limits.block))
        ranked = np.lexsort((rows.order, distance))[: int((~np.isnan(distance)).sum())]
        # Others take at most so many of them away.
        queues.append((category, iter(ranked[: count * len(categories)].tolist())))
    taken: dict[int, str] = {}
    while queues and len(taken) < count:
        for queue in list(queues):
            category, ranked_rows = queue
            row = next((row for row in ranked_rows if row not in taken), None)
            if row is None:
                queues.remove(queue)
            elif len(taken) < count:
                taken[row] = category
    certain = 1.0 if random else None
    chosen = [rows.chosen(row, str(category), certain) for row, category in taken.items()]
    others = np.setdiff1d(np.arange(len(rows.order)), list(taken))
    return chosen + (_random(rows, others, random, "others") if random else [])
