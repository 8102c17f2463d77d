"""What the results of one share of the inputs record, so that all shares can be put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from moderate.sources.subset import PLACE_COLUMNS, InputListing
from moderate.types import Row

if TYPE_CHECKING:
    from moderate.run.options import ScanOptions
    from moderate.run.summary import Summary

SHARD = "shard"
SHARD_OPTIONS = "shard_options"
SHARD_COUNTS = "shard_counts"
SHARD_FACTS = (SHARD, SHARD_OPTIONS, SHARD_COUNTS)
"""Audit facts that only results of a share have: which it is, how it was scanned, its counts."""

_OPTION_NAMES = {
    "max_file_size": "--max-file-size",
    "max_pixels": "--max-megapixels",
    "decode_timeout": "--decode-timeout",
    "max_decoder_memory": "--max-decoder-memory",
    "max_video_size": "--max-video-size",
    "url_timeout": "--url-timeout",
    "allow_private_network": "--allow-private-network",
    "allow_host": "--allow-host",
    "limit": "--limit",
    "only": "--only",
}


def option_name(key: str) -> str:
    """What the command line calls an option of `SHARD_OPTIONS`."""
    return _OPTION_NAMES.get(key, key)


def facts_at_start(options: ScanOptions) -> dict[str, str]:
    """Which share it is, and options that rows depend on but no other fact has. None unsharded."""
    shard = options.reading.shard
    if shard is None:
        return {}
    limits, http = options.limits, options.http
    known: dict[str, Any] = {
        "max_file_size": limits.max_file_bytes,
        "max_pixels": limits.max_pixels,
        "decode_timeout": limits.decode_timeout,
        "max_decoder_memory": limits.max_decoder_bytes,
        "max_video_size": options.video.max_bytes if options.video else None,
        "url_timeout": http.total_timeout,
        "allow_private_network": http.allow_private,
        "allow_host": sorted(http.allowed_hosts),
        "limit": options.limit,
        "only": ",".join(options.only) or None,
    }
    return {SHARD: f"{shard[0]}/{shard[1]}", SHARD_OPTIONS: json.dumps(known)}


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """What is known after the last row of a share.

    inputs and inputs_sha256 are of the inputs of all shares, which each of them goes through; rows
    and all others are of this share. skipped counts by reason, first_skipped has the number and the
    name of the first ones. unreadable and missing are those of `Summary`. named are the inputs as
    they were named, of which there are named_count.
    """

    inputs: int
    inputs_sha256: str
    rows: int
    skipped: dict[str, int]
    first_skipped: dict[str, list[tuple[int, str]]]
    unreadable: list[str]
    unreadable_count: int
    missing: int
    notes: list[str]
    named: list[str]
    named_count: int

    @classmethod
    def of_text(cls, text: str) -> ShardCounts:
        """What `facts_at_end` wrote. Raises ValueError."""
        try:
            known = json.loads(text)
            counts = cls(**known)
            numbers = (counts.inputs, counts.rows, counts.unreadable_count, counts.missing)
            if not all(type(each) is int for each in (*numbers, *counts.skipped.values())):
                raise ValueError("a count is not a whole number")
            return replace(
                counts,
                first_skipped={
                    reason: [(int(number), str(name)) for number, name in first]
                    for reason, first in counts.first_skipped.items()
                },
            )
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None


def facts_at_end(listing: InputListing | None, summary: Summary) -> dict[str, str]:
    """The counts of a share as an audit fact; none of a run that is not one share of several."""
    if listing is None:
        return {}
    highlights = summary.highlights
    counts: Mapping[str, Any] = {
        "inputs": listing.count,
        "inputs_sha256": listing.sha256,
        "rows": summary.rows,
        "skipped": listing.skipped,
        "first_skipped": listing.first_skipped,
        "unreadable": summary.unreadable,
        "unreadable_count": summary.unreadable_count,
        "missing": summary.missing_inputs,
        "notes": summary.input_notes,
        "named": list(highlights.inputs),
        "named_count": highlights.input_count,
    }
    return {SHARD_COUNTS: json.dumps(counts)}


@dataclass(slots=True)
class RowPlaces:
    """Gives each row of a share its place among the rows of its input."""

    _input: int | None = None
    _rows: int = field(default=0)

    def placed(self, row: Row) -> Row:
        """The row with that number among the last of the values that it carries."""
        *carried, number, _, content = row.ref.carried
        self._rows = self._rows + 1 if number == self._input else 1
        self._input = number
        return replace(row, ref=replace(row.ref, carried=(*carried, number, self._rows, content)))


def places_alone(carried: Sequence[Any]) -> tuple[Any, ...]:
    """What a row carries, with nothing but its place left of it."""
    kept = len(PLACE_COLUMNS)
    return (*(None for _ in carried[:-kept]), *carried[-kept:])
