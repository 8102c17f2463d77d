"""The results of all shares of a scan as those of one run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moderate.analysis.decide import audit_of_facts
from moderate.analysis.decide_by_policy import AsStored
from moderate.analysis.decide_writing import count_ratings, count_rows
from moderate.analysis.pieces import Piece
from moderate.analysis.policies import policy_in
from moderate.analysis.shard_rows import CLAIM, PLACE, carried_name, input_numbers, merged_rows
from moderate.analysis.shards import (
    OF_ONE_FILE,
    Shard,
    carried_columns,
    differing,
    open_shards,
)
from moderate.decode.sniff import VIDEO_FORMATS
from moderate.errors import InputError, UsageError
from moderate.exports.forms import check_exports, open_exports
from moderate.exports.interface import ExportOptions, ExportTarget
from moderate.own_categories import own_names
from moderate.policy.model import Policy
from moderate.results.final import FINAL_COLUMNS
from moderate.results.interface import CsvForm, ResultWriter
from moderate.results.schema import own_columns
from moderate.results.targets import (
    check_overwriting,
    check_reports,
    check_stdout,
    check_targets,
    finishing,
    is_page,
    open_texts,
    open_writers,
    read_identities,
)
from moderate.run.highlights import Highlights
from moderate.run.input_counts import nothing_found, nothing_was_there
from moderate.run.listing import Listing
from moderate.run.shard_facts import SHARD_FACTS
from moderate.run.summary import EXAMPLES_KEPT, Summary
from moderate.run.videos import video_origin
from moderate.scratch import scratch_folder
from moderate.sources.subset import SKIPPED_KEPT
from moderate.state.contents import Contents
from moderate.state.masking import mask_argument
from moderate.text import path_text, utc
from moderate.types import CATEGORIES, MOST_LISTED, Origin, Status
from moderate.version import __version__

_JOIN = "; "
_MOST_NAMED = 50
"""Shares that the audit facts name one by one."""

_OF_THE_MERGE = ("merged_from", "merged_shards", "merged", "merged_version")
"""Audit facts of merged results: the shares with their digests and runs, how many, when."""

_NOTHING_DECODED = "nothing was decoded"


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """What to put together and where to; the names are those of the command line."""

    shards: Sequence[str]
    out: Sequence[str] = ()
    summary: Sequence[str] = ()
    exports: Sequence[ExportTarget] = ()
    max_listed: int = MOST_LISTED
    force: bool = False
    csv: CsvForm = field(default_factory=CsvForm)
    partition_by: tuple[str, ...] = ()

    @property
    def row_targets(self) -> list[str]:
        """All targets of rows, in whatever form."""
        return [*self.out, *(each.target for each in self.exports)]


def merge(options: MergeOptions, summary_text: Callable[[Summary, str], str]) -> Summary:
    """Put the results of shares together, and write them as one run would have.

    Nothing is put under a target's name before all rows are there. Raises UsageError, InputError
    for shares that are not all of one scan, OutputError.
    """
    check_targets(options.out, options.partition_by)
    check_exports(options.exports)
    check_stdout(options.row_targets)
    check_reports("--summary", options.summary)
    shards = open_shards(options.shards)
    read = read_identities(name for shard in shards for name in shard.rows.files)
    check_overwriting(
        options.out,
        options.summary,
        read,
        force=options.force,
        exports=[each.target for each in options.exports],
    )
    columns = carried_columns(shards)
    names = [column.name for column in columns]
    if options.exports and set(FINAL_COLUMNS) <= set(names):
        raise UsageError(
            "--report: people have decided on these rows; merge them first, then make it of the "
            "result with 'moderate report'"
        )
    labels = next((shard.rows.labels for shard in shards if shard.rows.labels), ())
    facts = _facts(shards)
    policy = policy_in(facts, shards[0].name)
    stored = AsStored(policy, names)
    summary = _summary(shards, facts, policy, stored, options, own_names(labels))
    all_names = [column.name for column in own_columns(labels)]
    with (
        open_writers(options.out, options.csv, options.partition_by) as row_writers,
        open_exports(options.exports, ExportOptions()) as exports,
        open_texts(options.summary) as summaries,
        scratch_folder("merge") as folder,
        closing(Contents()) as contents,
    ):
        writers: list[ResultWriter] = [*row_writers, *exports]
        for writer in writers:
            writer.start(facts, columns, labels)
        copies = _Copies(contents)
        inputs = _InputCheck(shards)
        first = 1
        for table in merged_rows(shards, columns, labels, folder):
            inputs.add(table[PLACE].to_numpy())
            own = {name: _array(table[name]) for name in all_names}
            carried = {
                name: _cells(table[carried_name(name)], as_json=shards[0].rows.form == "JSON Lines")
                for name in names
            }
            own |= copies.corrected(own, _array(table[CLAIM]), first)
            piece = Piece(first, own, carried)
            _count(summary, piece, stored)
            for writer in writers:
                writer.write_columns([own[name] for name in all_names], list(carried.values()))
            first += len(piece)
        inputs.finish()
        if nothing_was_there(summary):
            raise InputError(nothing_found(summary))
        # What takes its time, and may fail, comes first: files appear all or none.
        for writer in writers:
            writer.seal(facts)
        summary.export_notes = [note for export in exports for note in export.notes]
        for text in summaries:
            text.seal(summary_text(summary, text.target))
        with finishing([*options.row_targets, *options.summary]):
            for writer in writers:
                writer.commit(facts)
            for text in summaries:
                text.commit()
    return summary


def _facts(shards: Sequence[Shard]) -> dict[str, str]:
    """The audit facts of all: those that they share, and the others one after the other."""
    facts: dict[str, str] = {}
    keys = dict.fromkeys(key for shard in shards for key in shard.facts)
    for key in keys:
        if key in SHARD_FACTS or key in OF_ONE_FILE:
            continue
        values = differing(shards, key)
        if key == "sandbox" and len(values) > 1:
            values = [value for value in values if value != _NOTHING_DECODED]
        if key in ("started", "ended"):
            values = [min(values) if key == "started" else max(values)]
        facts[key] = _JOIN.join(values)
    merged = [
        {
            "shard": f"{shard.index}/{shard.count}",
            "sha256": shard.rows.sha256(),
            **{key: shard.facts[key] for key in ("run_id", "started", "ended", "device")
               if key in shard.facts},
        }
        for shard in shards[:_MOST_NAMED]
    ]  # fmt: skip
    of_the_merge = (json.dumps(merged), str(len(shards)), utc(datetime.now(UTC)), __version__)
    return facts | dict(zip(_OF_THE_MERGE, of_the_merge, strict=True))


def _summary(
    shards: Sequence[Shard],
    facts: dict[str, str],
    policy: Policy,
    stored: AsStored,
    options: MergeOptions,
    own: tuple[str, ...],
) -> Summary:
    """A summary before its rows, with what only the runs of the shares could count."""
    counts = [shard.counts for shard in shards]
    started, ended = (_time(facts.get(key)) for key in ("started", "ended"))
    audit = replace(audit_of_facts(facts, started), sandbox=_sandbox(facts.get("sandbox")))
    summary = Summary(audit, policy, stored.judge, own=own)
    summary.merged = {key: facts[key] for key in _OF_THE_MERGE}
    summary.ended = ended
    summary.seconds = max((ended - started).total_seconds(), 0.0)
    summary.max_listed = options.max_listed
    summary.highlights = highlights = Highlights(
        inputs=tuple(counts[0].named),
        input_count=counts[0].named_count,
        outputs=tuple(map(mask_argument, [*options.row_targets, *options.summary])),
    )
    for each in counts:
        summary.skipped.update(each.skipped)
        summary.unreadable_count += each.unreadable_count
        summary.missing_inputs += each.missing
        summary.unreadable += each.unreadable
    summary.unreadable = summary.unreadable[:EXAMPLES_KEPT]
    summary.input_notes = list(dict.fromkeys(note for each in counts for note in each.notes))
    for reason in summary.skipped:
        first = sorted(found for each in counts for found in each.first_skipped.get(reason, ()))
        highlights.skipped[reason] = [name for _, name in first[:SKIPPED_KEPT]]
    if any(map(is_page, options.summary)):
        summary.listing = Listing(policy, own=own)
    if set(FINAL_COLUMNS) <= set(shards[0].carried):
        summary.input_notes.append(
            "People have decided on these rows: final_decision stays as it is, and the machine's "
            "decisions are counted."
        )
    for key, what in (("device", "device"), ("torch", "version of torch")):
        if len(values := differing(shards, key)) > 1:
            summary.input_notes.append(
                f"The shares had more than one {what} ({_JOIN.join(values)}): scores may differ in "
                "their last digits."
            )
    return summary


def _sandbox(text: str | None) -> tuple[str, ...] | None:
    """The inverse of `sandbox_text`."""
    if text is None or text == _NOTHING_DECODED:
        return None
    return tuple(text.split(", ")) if text != "none" else ()


def _count(summary: Summary, piece: Piece, stored: AsStored) -> None:
    """Take rows into the counts, as `Summary.count` does one by one."""
    counted, own = stored.decide(piece)
    count_rows(summary, piece, counted)
    count_ratings(summary, own["rating"])
    origins: Counter[str] = Counter(
        {each["values"]: each["counts"] for each in pc.value_counts(own["origin"]).to_pylist()}
    )
    for origin in Origin:
        summary.origins[origin] += origins[origin.value]
    names = (*CATEGORIES, *summary.own)
    summary.highlights.count_columns(
        own["path"],
        piece.severity,
        piece.scores_of(names),
        own["duplicate_of"].is_valid().to_numpy(zero_copy_only=False),
        _is_frame(own).to_numpy(zero_copy_only=False),
        names,
    )
    if summary.listing is not None:
        summary.listing.add_columns({name: own[name] for name in summary.listing.columns})


class _Copies:
    """Finds copies of images across shares, of which none knew of those of others."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def corrected(self, own: dict[str, Any], claims: Any, first: int) -> dict[str, Any]:
        """The columns origin and duplicate_of of rows whose first has this number in the whole.

        claims are the digests that rows are copies by. All rows of a video are among the rows.
        """
        indices = np.flatnonzero(claims.is_valid().to_numpy(zero_copy_only=False)).tolist()
        paths = pc.coalesce(own["path_bytes"], own["path"].cast(pa.binary()))
        reused = pc.equal(own["origin"], Origin.REUSED.value).fill_null(False)
        rows = [
            (claims[index].as_py(), first + index, paths[index].as_py(), reused[index].as_py())
            for index in indices
        ]
        found = self._contents.claim_each(rows)
        if found is None:
            return {}
        origins, firsts = own["origin"].to_pylist(), own["duplicate_of"].to_pylist()
        for index, claim in zip(indices, found, strict=True):
            if claim.first is None:
                continue
            firsts[index] = path_text(claim.first)
            if origins[index] in (Origin.NEW, Origin.DUPLICATE):
                origins[index] = (Origin.REUSED if claim.reused else Origin.DUPLICATE).value
        _set_of_videos(own, paths, origins)
        return {
            "origin": pa.array(origins, pa.string()),
            "duplicate_of": pa.array(firsts, pa.string()),
        }


def _set_of_videos(own: dict[str, Any], paths: Any, origins: list[str]) -> None:
    """Give rows of videos the origin that follows from those of their frames, which come before."""
    is_frame = _is_frame(own).to_numpy(zero_copy_only=False)
    statuses = own["status"]
    frames: list[str] = []
    video = b""
    for index in np.union1d(np.flatnonzero(is_frame), np.flatnonzero(is_frame) + 1).tolist():
        if index == len(origins):
            break
        path = paths[index].as_py()
        if is_frame[index]:
            if (of_video := path.rpartition(b"!/")[0]) != video:
                video, frames = of_video, []
            if statuses[index].as_py() == Status.OK:
                frames.append(origins[index])
        else:
            if path == video and frames and statuses[index].as_py() == Status.OK:
                origins[index] = video_origin(map(Origin, frames)).value
            video, frames = b"", []


def _is_frame(own: dict[str, Any]) -> Any:
    """Which rows are of frames of videos, as `Highlights` knows them."""
    is_video = pc.fill_null(pc.is_in(own["format"], pa.array(sorted(VIDEO_FORMATS))), False)
    frames = pc.and_(is_video, pc.is_null(own["sha256"]))
    return pc.and_(frames, pc.match_substring(own["path"], "!/"))


class _InputCheck:
    """Whether each input of all shares has rows in one share, or was skipped by one."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._expected = shards[0].counts.inputs
        self._skipped = sum(sum(shard.counts.skipped.values()) for shard in shards)
        self._last = self._last_place = self._met = 0

    def add(self, places: Any) -> None:
        """Take the keys of the next rows in. Raises InputError for two rows in one place."""
        before = np.concatenate([[self._last_place], places])
        if (twice := np.flatnonzero(np.diff(before) <= 0)).size:
            number = input_numbers(places)[twice[0]]
            raise InputError(f"input {number:,} has the same row in more than one share")
        inputs = np.concatenate([[self._last], input_numbers(places)])
        self._met += int(np.count_nonzero(np.diff(inputs)))
        self._last, self._last_place = int(inputs[-1]), int(before[-1])

    def finish(self) -> None:
        """Raises InputError where inputs have neither a row nor were skipped."""
        found = self._met + self._skipped
        if found != self._expected or self._last > self._expected:
            raise InputError(
                f"the shares have {self._met:,} inputs with rows and {self._skipped:,} without, of "
                f"{self._expected:,}: they are not all of one scan"
            )


def _array(column: Any) -> Any:
    """A column of a table as one array."""
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _cells(column: Any, *, as_json: bool) -> Any:
    array = _array(column)
    if not as_json:
        return array
    return [None if text is None else json.loads(text) for text in array.to_pylist()]


def _time(text: str | None) -> datetime:
    """A time of the audit facts; the beginning of time where they have none."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
