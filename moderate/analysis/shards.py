"""The results of all shares of a scan: opened, and checked to be of one another."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa

from moderate.errors import InputError, UsageError
from moderate.regular import sha256_of
from moderate.results.folders import NULL_VALUE, why_not_ours
from moderate.results.read import Part, Results, read_results
from moderate.results.read_format import (
    carried_names,
    contradiction,
    first_invalid,
    invalid_reason,
    scored_names,
)
from moderate.results.read_parquet import ParquetResults
from moderate.results.remote import is_remote
from moderate.results.schema import own_columns
from moderate.run.shard_facts import (
    SHARD,
    SHARD_COUNTS,
    SHARD_FACTS,
    SHARD_OPTIONS,
    ShardCounts,
    option_name,
)
from moderate.sources.subset import PLACE_COLUMNS, parse_shard
from moderate.tables.lines import file_name
from moderate.text import one_line
from moderate.types import Column

Form = Literal["CSV", "JSON Lines", "Parquet"]

OF_EACH = (
    *("run_id", "started", "ended", "device", "torch", "timm", "sandbox"),
    *("config", "config_sha256", "policy_file"),
    *("decided_from", "decided", "decided_version", "decisions_sha256"),
)
"""Audit facts that shares may differ in: each has its own machine, time and run."""

OF_ONE_FILE = ("sha256", "csv", "partition_by")
"""Audit facts that are true of the form of one file alone."""

_WHAT = {
    "version": "the version of moderate",
    "weights": "the weights",
    "weights_sha256": "the weights (weights_sha256)",
    "policy": "the policy",
    "policy_sha256": "the policy (policy_sha256)",
    "precision": "--precision",
    "backend": "--backend",
    "jpeg_decode": "--exact-decode (jpeg_decode)",
    "looked_at": "--frames, --views, --formats, --embedded or --video-every (looked_at)",
}
_CHANGED = "was changed since moderate wrote it, or is cut off; scan that share again"

_FIRST = ("version", "weights_sha256", "policy_sha256")
"""Facts that are compared before others, whose difference they explain."""


class Rows(ABC):
    """The rows of one share, in whatever form. Reading raises InputError."""

    facts: Mapping[str, str]
    carried: tuple[str, ...]
    labels: tuple[str, ...]
    form: Form
    ordered: bool
    """Whether the rows are in the order of the input."""

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """Our own columns and carried ones of all rows, in parts."""

    @abstractmethod
    def check_whole(self) -> None:
        """Raises InputError where the rows are not those that a run wrote."""

    @abstractmethod
    def sha256(self) -> str:
        """The digest of the rows' file; of a folder, that of its `sha256sum` lines, sorted."""

    @abstractmethod
    def carried_types(self) -> dict[str, Any]:
        """The Arrow types of carried columns, for results that have types."""

    @property
    @abstractmethod
    def files(self) -> list[str]:
        """The files that are read."""


class FileRows(Rows):
    """A results file."""

    ordered = True

    def __init__(self, path: str) -> None:
        self._results: Results = read_results(path)
        self._path = path
        self.facts = self._results.facts
        self.carried = self._results.carried
        self.labels = self._results.labels
        suffix = os.path.splitext(path.lower())[1]
        forms: dict[str, Form] = {".csv": "CSV", ".jsonl": "JSON Lines"}
        self.form = forms.get(suffix, "Parquet")

    def parts(self) -> Iterator[Part]:
        """See `Rows`."""
        return self._results.parts(self._results.own, self.carried)

    def check_whole(self) -> None:
        """See `Rows`."""
        if not self._results.is_as_written:
            raise InputError(f"{file_name(self._path)} {_CHANGED}")

    def sha256(self) -> str:
        """See `Rows`."""
        return self._results.sha256

    def carried_types(self) -> dict[str, Any]:
        """See `Rows`."""
        if self.form == "Parquet":
            return {name: self._results.schema.field(name).type for name in self.carried}
        if self.form == "CSV":
            return dict.fromkeys(self.carried, pa.string())
        from moderate.analysis.decide_writing import json_types

        return json_types(self._results)

    @property
    def files(self) -> list[str]:
        """See `Rows`."""
        return [self._path]


class FolderRows(Rows):
    """A folder that `--partition-by` has divided, whose files lack the columns in their names."""

    form: Form = "Parquet"
    ordered = False

    def __init__(self, path: str) -> None:
        self._path = path
        shown = file_name(path)
        if reason := why_not_ours(os.path.realpath(path)):
            raise InputError(f"{shown} {reason}")
        found = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
        self._names = sorted(found)
        if not self._names:
            raise InputError(f"{shown} is an empty folder: there are no results in it")
        last = ParquetResults(self._names[0])
        self.facts = last.facts()
        for name in self._names:
            file = ParquetResults(name)
            facts = file.facts()
            if facts.get("run_id") != self.facts.get("run_id") or file.names != last.names:
                raise InputError(f"{file_name(name)} is of another run than others in {shown}")
            if "ended" in facts:  # a file that was full before the end of the run lacks what is new
                self.facts = facts
        self._schema = last.schema
        self.carried = carried_names(last.names)
        self.labels = scored_names(last.names)

    def parts(self) -> Iterator[Part]:
        """See `Rows`."""
        own = [column.name for column in own_columns(self.labels)]
        for name in self._names:
            values = self._given(name)
            given = {key: values[key] for key in values if key not in carried_names(list(values))}
            for chunk in ParquetResults(name).chunks():
                arrays = dict(zip(own, chunk.columns(own), strict=True))
                for key, value in given.items():
                    arrays[key] = pa.array([value] * chunk.count, pa.string())
                    if chunk.count and (found := first_invalid(key, arrays[key])) is not None:
                        raise chunk.error(found, invalid_reason(key, value))
                if (problem := contradiction(arrays, own)) is not None:
                    raise chunk.error(*problem)
                yield arrays, {each: chunk.carried(each) for each in self.carried}

    def check_whole(self) -> None:
        """See `Rows`."""
        for name in self._names:
            if not ParquetResults(name).is_as_written:
                raise InputError(f"{file_name(name)} {_CHANGED}")

    def sha256(self) -> str:
        """See `Rows`."""
        names = [os.path.relpath(name, self._path) for name in self._names]
        pairs = sorted(zip(names, self._names, strict=True))
        lines = [f"{sha256_of(path)}  {name}\n" for name, path in pairs]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def carried_types(self) -> dict[str, Any]:
        """See `Rows`."""
        return {name: self._schema.field(name).type for name in self.carried}

    @property
    def files(self) -> list[str]:
        """See `Rows`."""
        return self._names

    def _given(self, name: str) -> dict[str, str | None]:
        """The values of columns that the folders above a file name."""
        folders = os.path.relpath(os.path.dirname(name), self._path).split("/")
        pairs = (folder.partition("=") for folder in folders if "=" in folder)
        return {key: None if value == NULL_VALUE else unquote(value) for key, _, value in pairs}


@dataclass(frozen=True)
class Shard:
    """The results of one share: `index` of `count`, from 1. name is what messages call it."""

    name: str
    index: int
    count: int
    rows: Rows
    options: Mapping[str, Any]
    counts: ShardCounts

    @property
    def facts(self) -> Mapping[str, str]:
        """Its audit facts."""
        return self.rows.facts

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """The columns that its rows carry, without their places."""
        return tuple(name for name in self.rows.carried if name not in PLACE_COLUMNS)


def open_shards(paths: Sequence[str]) -> list[Shard]:
    """The shares, in the order of their numbers, checked to be all of one scan.

    Raises UsageError and InputError with a line that names the file and what differs.
    """
    shards = sorted(map(_opened, paths), key=lambda shard: shard.index)
    first = shards[0]
    for shard in shards[1:]:
        if shard.count != first.count:
            raise InputError(
                f"{first.name} is share {first.index} of {first.count}, {shard.name} share "
                f"{shard.index} of {shard.count}: they are of different divisions"
            )
    for before, shard in pairwise(shards):
        if before.index == shard.index:
            if before.name == shard.name:
                raise InputError(f"{shard.name} is named twice")
            raise InputError(
                f"{before.name} and {shard.name} are both share {shard.index} of {shard.count}; "
                "name one of them"
            )
    here = {shard.index for shard in shards}
    # A number of shares from a file that was changed may be anything: no list of all of them.
    if len(here) < first.count:
        missing = next(index for index in range(1, len(here) + 2) if index not in here)
        more = first.count - len(here) - 1
        also = f" and {more} more" if more else ""
        raise InputError(
            f"share {missing} of {first.count}{also} is missing; there are "
            f"{one_line(', '.join(f'{shard.index}' for shard in shards), 80)}: add the results of "
            f"'moderate scan --shard {missing}/{first.count}'"
        )
    for shard in shards[1:]:
        _check_alike(first, shard)
    # Of a share without rows, JSON Lines do not even have the names of columns.
    with_rows = [shard for shard in shards if shard.counts.rows]
    for shard in with_rows[1:]:
        _check_columns(with_rows[0], shard)
    for shard in shards:
        shard.rows.check_whole()
    return shards


def differing(shards: Sequence[Shard], key: str) -> list[str]:
    """The different values that a fact has, in the order of shares."""
    found = (shard.facts[key] for shard in shards if key in shard.facts)
    return list(dict.fromkeys(found))


def carried_columns(shards: Sequence[Shard]) -> list[Column]:
    """The columns that rows carry, with types that hold the values of all shares."""
    types: dict[str, list[Any]] = {name: [] for name in shards[0].carried}
    for shard in shards:
        for name, kind in shard.rows.carried_types().items():
            types.setdefault(name, []).append(kind)
    return [
        Column(name, _common(kinds)) for name, kinds in types.items() if name not in PLACE_COLUMNS
    ]


def _common(kinds: Sequence[Any]) -> Any:
    fields = [pa.schema([pa.field("x", kind)]) for kind in kinds]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return pa.string()


def _opened(path: str) -> Shard:
    shown = file_name(path)
    if is_remote(path):
        raise UsageError(f"{shown}: shares are read from local files; fetch it first")
    rows = FolderRows(path) if os.path.isdir(path) else FileRows(path)
    facts = rows.facts
    if not facts:
        beside = "" if rows.form == "Parquet" else f" beside it ({shown}.meta.json)"
        raise InputError(f"{shown} has no audit facts{beside}: which share it is, they alone say")
    if SHARD not in facts:
        raise InputError(f"{shown} is not a share: it was written without --shard I/N")
    if SHARD_COUNTS not in facts:
        raise InputError(f"{shown} lacks the audit facts of the end of its run")
    try:
        index, count = parse_shard(facts[SHARD])
        options = json.loads(facts[SHARD_OPTIONS])
        if not isinstance(options, dict):
            raise ValueError
        counts = ShardCounts.of_text(facts[SHARD_COUNTS])
    except (UsageError, ValueError, KeyError, RecursionError):
        raise InputError(f"{shown}: its audit facts of a share are damaged") from None
    for key in ("limit", "only"):
        if options.get(key) is not None:
            raise InputError(
                f"{shown} was written with {option_name(key)}: rows of its share are missing"
            )
    missing = [name for name in PLACE_COLUMNS if name not in rows.carried]
    if missing and counts.rows:
        rows.check_whole()  # an empty file of JSON Lines has no columns either
        raise InputError(f"{shown} has no column {missing[0]}, which says where its rows belong")
    return Shard(shown, index, count, rows, options, counts)


def _check_alike(first: Shard, other: Shard) -> None:
    """Raises InputError for the first thing that rows depend on and that differs."""
    names = f"{first.name} and {other.name}"
    if first.rows.form != other.rows.form:
        raise InputError(f"{names} are of different forms: {first.rows.form}, {other.rows.form}")
    allowed = {*OF_EACH, *OF_ONE_FILE, *SHARD_FACTS}
    keys = [*_FIRST, *sorted((first.facts.keys() | other.facts.keys()) - set(_FIRST))]
    for key in keys:
        before, after = first.facts.get(key), other.facts.get(key)
        if key not in allowed and before != after:
            what = _WHAT.get(key, one_line(key, 60))
            shown = [_named(shard.facts, key) for shard in (first, other)]
            raise InputError(f"{names}: {what} differs: {', '.join(shown)}")
    for key in [*first.options, *other.options]:
        before, after = first.options.get(key), other.options.get(key)
        if before != after:
            what = one_line(option_name(key), 60)
            raise InputError(f"{names}: {what} differs: {_shown(before)}, {_shown(after)}")
    if first.counts.inputs != other.counts.inputs:
        raise InputError(
            f"{names}: the inputs differ: {first.counts.inputs:,} and {other.counts.inputs:,} of "
            "all shares"
        )
    if first.counts.inputs_sha256 != other.counts.inputs_sha256:
        raise InputError(f"{names}: the inputs differ in their names, or in their order")


def _check_columns(first: Shard, other: Shard) -> None:
    """Raises InputError where the rows of two shares have different columns."""
    if (first.carried, first.rows.labels) == (other.carried, other.rows.labels):
        return
    columns = [{*shard.carried, *shard.rows.labels} for shard in (first, other)]
    different = one_line(", ".join(sorted(columns[0] ^ columns[1])) or "their order", 200)
    raise InputError(f"{first.name} and {other.name}: the columns differ: {different}")


def _named(facts: Mapping[str, str], key: str) -> str:
    """A fact; of the digest of weights and policies, its beginning behind their name."""
    value, name = facts.get(key), facts.get(key.removesuffix("_sha256"))
    if key in _FIRST and value is not None and name not in (value, None):
        return f"{one_line(str(name), 40)} {value[:12]}"
    return _shown(value)


def _shown(value: Any) -> str:
    return "none" if value is None else one_line(str(value), 80)
