"""Which rows people look at, and in which order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.errors import InputError, UsageError
from moderate.own_categories import category_named
from moderate.policy.model import Policy
from moderate.policy.thresholds import reaches
from moderate.results.read import Results
from moderate.text import one_line, printable

Kind = Literal["review", "block", "errors", "approve-sample", "all"]
Order = Literal["uncertain", "severe", "input"]

_KIND = re.compile(r"(review|block|errors|all)|approve-sample:([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are in the queue; filters are None where they do not matter.

    sample is how many approved rows `approve-sample` takes by chance. column is a column's name and
    the text that its cells have. source is what paths start with.
    """

    kind: Kind = "review"
    sample: int = 0
    category: str | None = None
    warning: str | None = None
    source: str | None = None
    column: tuple[str, str] | None = None
    order: Order = "uncertain"


def parse_kind(text: str) -> tuple[Kind, int]:
    """What --queue takes. Raises UsageError."""
    found = _KIND.fullmatch(text)
    if not found:
        raise UsageError(
            f"--queue {one_line(text, 40)!r}: use review, block, errors, all or approve-sample:N"
        )
    if found[2]:
        return "approve-sample", int(found[2])
    return next(kind for kind in get_args(Kind) if kind == found[1]), 0


@dataclass(frozen=True, slots=True)
class Queue:
    """The rows to look at, counted from 1, in their order.

    probability is how likely each of those that were to choose from was to be taken, 1 where all
    were.
    """

    numbers: NDArray[np.int64]
    probability: float = 1.0


class Selector:
    """Chooses rows part by part, and puts them in order at the end.

    Copies of another row are left out, since its decision is theirs. Raises InputError for a column
    that the results have not.
    """

    def __init__(self, results: Results, policy: Policy, selection: Selection) -> None:
        self._policy, self._selection = policy, selection
        self.own = ["path", "status", "decision", "warnings", "duplicate_of"]
        self.own += map(str, results.categories)
        if selection.category is not None:
            category_named("--category", selection.category, results.categories)
            if policy.limits(selection.category) is None:
                raise InputError(
                    f"--category {selection.category}: policy {printable(policy.name)} has no "
                    "thresholds for it"
                )
        self.carried: list[str] = []
        if selection.column and (name := selection.column[0]) not in self.own:
            if name not in results.columns:
                raise InputError(f"the results have no column {one_line(name, 60)!r}")
            (self.own if name in results.own else self.carried).append(name)
        self._numbers: list[NDArray[np.int64]] = []
        self._keys: list[NDArray[np.float64]] = []
        self._done = 0

    def take(self, own: Mapping[str, Any], carried: Mapping[str, Any]) -> NDArray[np.int64]:
        """The places of the next part's rows that may be in the queue.

        The part has the columns `own` and `carried` of this object, and may have more.
        """
        columns = {name: own[name] for name in self.own}
        columns |= {name: pa.array(map(str, carried[name]), pa.string()) for name in self.carried}
        table = pa.table(columns)
        chosen = np.flatnonzero(_mask(table, self._policy, self._selection))
        part = table if len(chosen) == len(table) else table.take(pa.array(chosen))
        self._numbers.append(chosen + self._done + 1)
        self._keys.append(_order_keys(part, self._policy, self._selection))
        self._done += len(table)
        return chosen

    def queue(self) -> Queue:
        """The queue, when all parts are there."""
        if not self._numbers:
            return Queue(np.empty(0, np.int64))
        numbers, keys = np.concatenate(self._numbers), np.concatenate(self._keys)
        probability = 1.0
        if self._selection.kind == "approve-sample":
            rng = np.random.default_rng(0)
            keep = np.sort(rng.permutation(len(numbers))[: self._selection.sample])
            probability = len(keep) / max(len(numbers), 1)
            numbers, keys = numbers[keep], keys[keep]
        return Queue(numbers[np.argsort(keys, kind="stable")], probability)


def queue_of(results: Results, policy: Policy, selection: Selection) -> Queue:
    """The queue of a selection, of which only the columns that matter are read.

    Raises InputError.
    """
    selector = Selector(results, policy, selection)
    for own, carried in results.parts(selector.own, selector.carried):
        selector.take(own, carried)
    return selector.queue()


def _mask(table: pa.Table, policy: Policy, selection: Selection) -> NDArray[np.bool_]:
    failed = pc.equal(table["status"], "error")
    mask = pc.is_null(table["duplicate_of"])
    if selection.kind == "errors":
        mask = pc.and_(mask, failed)
    elif selection.kind != "all":
        wanted = "approve" if selection.kind == "approve-sample" else selection.kind
        mask = pc.and_(mask, pc.equal(table["decision"], wanted))
    if selection.warning is not None:
        padded = pc.binary_join_element_wise("; ", table["warnings"], "; ", "")
        mask = pc.and_(
            mask, pc.fill_null(pc.match_substring(padded, f"; {selection.warning}; "), False)
        )
    if selection.source is not None:
        mask = pc.and_(mask, pc.starts_with(table["path"], selection.source))
    if selection.column is not None:
        name, text = selection.column
        mask = pc.and_(mask, pc.fill_null(pc.equal(pc.cast(table[name], pa.string()), text), False))
    kept: NDArray[np.bool_] = mask.to_numpy().astype(bool)
    if selection.category is not None and (limits := policy.limits(selection.category)):
        kept &= reaches(_scores(table, selection.category), limits.review)
    return kept


def _scores(table: pa.Table, category: str) -> NDArray[np.float32]:
    """NaN: not scored."""
    scores: NDArray[np.float32] = table[category].to_numpy().astype(np.float32)
    return scores


def _order_keys(table: pa.Table, policy: Policy, selection: Selection) -> NDArray[np.float64]:
    """What rows are sorted by, the smallest first, those without scores last; else in order."""
    count = len(table)
    if selection.order == "input" or not count:
        return np.zeros(count)
    keys = np.full(count, np.inf)
    for category, limits in policy.all_limits.items():
        if selection.category not in (None, category) or category not in table.column_names:
            continue
        scores = _scores(table, category)
        if selection.order == "severe":
            keys = np.fmin(keys, -scores)
        else:
            # Nearest to a threshold: there a person's judgement changes most.
            distance = np.minimum(np.abs(scores - limits.review), np.abs(scores - limits.block))
            keys = np.fmin(keys, distance)
    return keys


def needs_second_look(identity: str, share: float, salt: str) -> bool:
    """Whether an image is among the share that two people judge: always the same ones."""
    digest = hashlib.sha256(f"{salt}\0{identity}".encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
