"""Decisions again from stored scores: a results file under another policy, without an image.

What people decided on its rows can come to it, with the policy or alone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cache, cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moderate.analysis.policies import policy_of
from moderate.arrow import python_values
from moderate.classify.coverage import Coverage
from moderate.config import ConfigRecord
from moderate.errors import PolicyError, UsageError
from moderate.places import read_places
from moderate.policy.batch import UNKNOWN_ERROR, Batch, Codes, Decided, Encoded
from moderate.policy.judge import Judge
from moderate.policy.lists import Lists
from moderate.policy.load import LoadedPolicy, load_policy
from moderate.policy.model import Policy
from moderate.policy.reasons import placed
from moderate.policy.rows import judge_rows
from moderate.policy.thresholds import BANDS, DECISIONS, Severities, band_counts
from moderate.regular import sha256_of
from moderate.results.final import DECIDED_BY, FINAL_COLUMNS, has_final
from moderate.results.interface import CsvForm
from moderate.results.read import Results, read_results
from moderate.results.read_format import Chunk
from moderate.results.schema import COLUMNS
from moderate.results.targets import (
    check_overwriting,
    check_reports,
    check_targets,
    finishing,
    has_metadata,
    identities,
    open_texts,
    open_writers,
    read_identities,
    to_stdout,
)
from moderate.review.verdicts import Final, People, read_decisions
from moderate.run.summary import EXAMPLES_KEPT, Audit, Finding, Summary, name_counted
from moderate.run.videos import Video, VideoEnd
from moderate.text import one_line, printable, utc
from moderate.types import (
    CATEGORIES,
    LABEL_PREFIX,
    MOST_LISTED,
    Column,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Status,
    Warn,
)
from moderate.version import __version__

MOST_ROWS = 100_000
"""Rows that are decided at once."""

OWN = tuple(column.name for column in COLUMNS)

_KNOWN_WARNINGS = {warning.value: warning for warning in Warn}

_FRAME = r"!/[0-9]{2,}:[0-9]{2}:[0-9]{2}\.[0-9]{3}$"
_SEVERITIES = pa.array([decision.value for decision in DECISIONS], pa.string())


@dataclass(frozen=True)
class Piece:
    """Some rows of a results file: an Arrow array for each own column, cells of carried ones.

    first is the number of the first row, from 1.
    """

    first: int
    own: dict[str, Any]
    carried: dict[str, Any]

    def __len__(self) -> int:
        return len(self.own["path"])

    @cached_property
    def severity(self) -> Severities:
        """That of the decisions as they are stored."""
        found = pc.index_in(self.own["decision"], _SEVERITIES).to_numpy()
        return np.asarray(found, np.int8)

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """Which rows have no scores for an error."""
        found = pc.equal(self.own["status"], Status.ERROR.value)
        return np.asarray(found.to_numpy(zero_copy_only=False), bool)

    @cached_property
    def exact_paths(self) -> Any:
        """The bytes of the paths, also of those that are not UTF-8."""
        return pc.coalesce(self.own["path_bytes"], self.own["path"].cast(pa.binary()))

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """(categories, rows), NaN for what was not scored."""
        return np.stack([_floats(self.own[name]) for name in CATEGORIES])

    @cached_property
    def batch(self) -> Batch:
        """What decisions on the rows depend on."""

        @cache
        def paths() -> list[bytes]:
            return list(self.exact_paths.to_pylist())

        @cache
        def carried(name: str) -> list[Any]:
            cells = self.carried.get(name)
            return [None] * len(self) if cells is None else python_values(cells)

        codes = _encoded(self.own["error_code"].fill_null(UNKNOWN_ERROR))
        warnings = _encoded(self.own["warnings"])
        return Batch(
            scores=self.scores,
            unseen=_floats(self.own["unseen"]),
            warnings=Encoded([_warnings(text) for text in warnings.values], warnings.codes),
            errors=Encoded(codes.values, np.where(self.failed, codes.codes, np.int32(-1))),
            paths=paths,
            sha256=lambda: list(self.own["sha256"].to_pylist()),
            carried=carried,
            labels=lambda name: _floats(self.own[LABEL_PREFIX + name]),
        )


def _encoded(column: Any) -> Encoded[str]:
    encoded = column.dictionary_encode()
    codes: Codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Encoded(encoded.dictionary.to_pylist(), codes.astype(np.int32, copy=False))


def _floats(column: Any) -> NDArray[np.float32]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)


def _warnings(text: str) -> tuple[Warn, ...]:
    """Those of a cell that are, or still are, of the closed list."""
    return tuple(_KNOWN_WARNINGS[name] for name in text.split("; ") if name in _KNOWN_WARNINGS)


def policy_columns(decided: Decided) -> dict[str, Any]:
    """The columns that a policy makes, as Arrow arrays by their names in results."""
    decisions = Encoded([each.value for each in DECISIONS], decided.severity.astype(np.int32))
    reasons = ["; ".join(each) for each in decided.reasons.values]
    unscored = np.isnan(decided.nsfw_score)
    return {
        "decision": _texts(decisions),
        "reasons": _texts(Encoded(reasons, decided.reasons.codes)),
        "label": _texts(decided.label),
        **{
            name: pa.array(getattr(decided, name).astype(np.float32), mask=unscored)
            for name in ("nsfw_score", "safe_score", "confidence")
        },
        "risk": _texts(decided.risk),
        "is_nsfw": pa.array(decided.is_nsfw, pa.bool_(), mask=unscored),
        "rating": _texts(decided.rating),
    }


def _texts(column: Encoded[str]) -> Any:
    if not column.values:
        return pa.nulls(len(column), pa.string())
    codes = pa.array(column.codes, mask=column.codes < 0)
    return pa.array(column.values, pa.string()).take(codes)


def carried_columns(judge: Judge, results: Results) -> list[str]:
    """The carried columns of the results that decisions depend on."""
    return [name for name in judge.columns_needed if name in results.carried]


def pieces(
    results: Results, names: Sequence[str] | None = None, carried: Sequence[str] | None = None
) -> Iterator[Piece]:
    """All rows in order, MOST_ROWS at the most at once. Raises InputError.

    Only these columns are there, None standing for all of ours or all carried ones; one of our own
    that the file lacks is null.
    """
    names = results.own if names is None else names
    wanted = results.carried if carried is None else carried
    first = 1
    for own, theirs in results.parts(names, wanted):
        count = len(own[names[0]])
        for start in range(0, count, MOST_ROWS):
            part = slice(start, min(start + MOST_ROWS, count))
            yield Piece(
                first + start,
                {name: array[part] for name, array in own.items()},
                {name: cells[part] for name, cells in theirs.items()},
            )
        first += count


class Redecider:
    """Decides on the rows of a file by one policy; the pieces are given in their order.

    A video is decided as in a scan: by its own scores and by the rows of its frames before it.
    Raises PolicyError where the policy names a label that the results do not have the scores of.
    """

    def __init__(self, loaded: LoadedPolicy, results: Results, today: date | None = None) -> None:
        self.loaded = loaded
        self.judge = Judge.of(loaded, today, results.carried)
        self.labels = self.judge.labels
        if missing := [name for name in self.labels if name not in results.labels]:
            raise PolicyError(
                f"policy {printable(loaded.policy.name)}: labels.{missing[0]!r}: the results have "
                f"no column {LABEL_PREFIX}{missing[0]}; {_labels_there(results.labels)}"
            )
        self._video: bytes | None = None
        self._frames: list[Row] = []
        self.segments: dict[int, str | None] = {}
        """The column `segments` of the videos among the rows that were decided last."""

    def decide(self, piece: Piece) -> Decided:
        """What becomes of the rows."""
        self.segments = {}
        return self._with_videos(piece, _with_places(piece, self.judge.decide(piece.batch)))

    def segments_column(self, count: int) -> Any:
        """The column `segments` of the `count` rows that were decided last, as an Arrow array."""
        return pa.array([self.segments.get(index) for index in range(count)], pa.string())

    def _with_videos(self, piece: Piece, decided: Decided) -> Decided:
        """Decide on the rows of videos by those of their frames, too."""
        matches = pc.match_substring_regex(piece.own["path"], _FRAME)
        is_frame = matches.to_numpy(zero_copy_only=False)
        if not (self._frames or is_frame.any()):
            return decided
        frame_rows = np.flatnonzero(is_frame)
        ends = frame_rows + 1
        relevant = np.union1d(frame_rows, [0, *ends[ends < len(piece)]])
        videos: dict[int, Video] = {}
        for index, row in zip(relevant.tolist(), self._rows(piece, decided, relevant), strict=True):
            path = row.ref.path
            if is_frame[index]:
                video = path.rpartition(b"!/")[0]
                if video != self._video:
                    self._video, self._frames = video, []
                self._frames.append(row)
                continue
            if self._frames and path == self._video and row.error is None:
                videos[index] = Video.of(VideoEnd(row.ref, row.facts), self._frames)
            self._video, self._frames = None, []
        judged = judge_rows(self.judge, [video.row for video in videos.values()])
        severity, codes = decided.severity.copy(), decided.reasons.codes.copy()
        reasons = list(decided.reasons.values)
        for index, each in zip(videos, judged, strict=True):
            row = videos[index].decided(each, self.judge)
            self.segments[index] = row.segments
            severity[index], codes[index] = row.decision.severity, len(reasons)
            reasons.append(row.reasons)
        return replace(decided, severity=severity, reasons=Encoded(reasons, codes))

    def _rows(self, piece: Piece, decided: Decided, indices: NDArray[np.int64]) -> list[Row]:
        """The rows of these indices as those of a run."""
        batch = piece.batch.take(indices)
        # Of the other columns, no condition of the policy knows.
        needed, nothing = self.judge.columns_needed, [None] * len(batch)
        carried = [batch.carried(n) if n in needed else nothing for n in self.judge.columns]
        labels = [batch.labels(name).tolist() for name in self.labels] if batch.labels else []
        scores = batch.scores.T.tolist()
        duration_column = piece.own.get("duration")  # only `segments` depends on it
        durations = nothing
        if duration_column is not None:
            durations = duration_column.take(pa.array(indices)).to_pylist()
        return [
            Row(
                ref=ImageRef(path, carried=tuple(values[place] for values in carried)),
                facts=ImageFacts(sha256=sha256, warnings=warnings or (), duration=duration),
                scores=dict(zip(CATEGORIES, map(_score, scores[place]), strict=True)),
                decision=DECISIONS[decided.severity[index]],
                reasons=decided.reasons.values[decided.reasons.codes[index]],
                # A code that is not, or no longer, one of ours is told as it is.
                error=ImageError(cast(ErrorCode, code), "") if code else None,
                labels={
                    name: _score(values[place])
                    for name, values in zip(self.labels, labels, strict=True)
                },
            )
            for place, (index, path, sha256, warnings, code, duration) in enumerate(
                zip(
                    indices.tolist(),
                    batch.paths(),
                    batch.sha256(),
                    batch.warnings.to_list(),
                    batch.errors.to_list(),
                    durations,
                    strict=True,
                )
            )
        ]


def _with_places(piece: Piece, decided: Decided) -> Decided:
    """Say in the reasons which frame or part of a file they are about, as a scan does."""
    cells = piece.own.get("highest_at")
    if cells is None:
        return decided
    codes, reasons = decided.reasons.codes.copy(), list(decided.reasons.values)
    known: dict[tuple[str, int], int] = {}
    for index in np.flatnonzero(cells.is_valid().to_numpy(zero_copy_only=False)).tolist():
        key = (cells[index].as_py(), int(codes[index]))
        if key not in known:
            known[key] = len(reasons)
            reasons.append(placed(reasons[key[1]], read_places(key[0])))
        codes[index] = known[key]
    return replace(decided, reasons=Encoded(reasons, codes)) if known else decided


def _score(value: float) -> float | None:
    return None if math.isnan(value) else value


def _labels_there(names: Sequence[str]) -> str:
    if not names:
        return "scan again with this policy, or with --keep-labels"
    return f"they have {one_line(', '.join(names), 400)}"


@dataclass(frozen=True, slots=True)
class DecideOptions:
    """What to decide again and by what; the names are those of the command line."""

    results: str
    policy: str | None
    out: Sequence[str] = ()
    summary: Sequence[str] = ()
    max_listed: int = MOST_LISTED
    force: bool = False
    csv: CsvForm = field(default_factory=CsvForm)
    partition_by: tuple[str, ...] = ()
    decisions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Redecided:
    """What came of it: counts as of a scan, and of changes.

    facts are the audit facts of what was written, before those of the source. changes counts the
    rows by severity, before (first axis) and now. notes are sentences for every form of it. people
    is None without journals of their decisions.
    """

    source: str
    facts: dict[str, str]
    before: dict[str, str]
    summary: Summary
    changes: NDArray[np.int64]
    notes: tuple[str, ...]
    outputs: dict[str, str] = field(default_factory=dict)
    people: People | None = None


class Counted(NamedTuple):
    """What is counted of decisions; see `Decided`."""

    severity: Severities
    reasons: Encoded[tuple[str, ...]]
    bands: Severities


class _ByPolicy:
    """The machine's decisions by another policy."""

    def __init__(self, loaded: LoadedPolicy, results: Results) -> None:
        self.policy = loaded.policy
        self._redecider = Redecider(loaded, results)
        self.judge = self._redecider.judge

    def decide(self, piece: Piece) -> tuple[Counted, dict[str, Any]]:
        """What is counted of the rows, and their own columns."""
        decided = self._redecider.decide(piece)
        segments = self._redecider.segments_column(len(piece))
        own = {**piece.own, **policy_columns(decided), "segments": segments}
        return Counted(decided.severity, decided.reasons, decided.bands), own


class AsStored:
    """The machine's decisions as they are, which were taken by this policy."""

    def __init__(self, policy: Policy, carried: Sequence[str]) -> None:
        self.policy = policy
        # Lists count as they did: what they say is in the decisions, and files may be gone.
        self.judge = Judge(self.policy, columns=carried, lists=Lists())

    def decide(self, piece: Piece) -> tuple[Counted, dict[str, Any]]:
        """See `_ByPolicy`."""
        texts = _encoded(piece.own["reasons"])
        reasons = [tuple(text.split("; ")) for text in texts.values]
        codes = np.where(texts.codes < 0, len(reasons), texts.codes).astype(np.int32)
        bands = self.judge.bands(piece.batch)
        return Counted(piece.severity, Encoded([*reasons, ()], codes), bands), piece.own


def redecide(
    options: DecideOptions, summary_text: Callable[[Redecided, str], str] | None = None
) -> Redecided:
    """Read a results file, decide on its rows by another policy, and write them.

    Without a policy, the decisions stay as they are. With journals of what people decided, rows get
    the columns of `verdicts`, and what is counted is what people decided.

    summary_text gives the text of a summary for a target; without it, no summary is written.
    Nothing is put under a target's name before all rows are there. Raises UsageError, PolicyError,
    InputError for what is no results file, OutputError.
    """
    clock, started = time.monotonic(), datetime.now(UTC)
    check_targets(options.out, options.partition_by)
    check_reports("--summary", options.summary)
    results = read_results(options.results)
    if options.policy is None and not options.decisions:
        raise UsageError(
            "there is nothing to decide by: name a policy, decisions of people, or both"
        )
    loaded = None if options.policy is None else load_policy(options.policy)
    inputs = read_identities([options.results]) | identities(options.decisions)
    inputs |= identities(loaded.files if loaded else ())
    check_overwriting(options.out, options.summary, inputs, force=options.force)
    machine = (
        _ByPolicy(loaded, results) if loaded else AsStored(policy_of(results), results.carried)
    )
    decisions = read_decisions(options.decisions) if options.decisions else None
    people = People.of(decisions) if decisions else None
    facts = _facts(results, loaded, started) | _people_facts(options.decisions)
    facts = {"policy": machine.policy.name, "policy_sha256": "", **facts}
    summary = Summary(audit_of_facts(facts, started), machine.policy, machine.judge)
    summary.max_listed = options.max_listed
    changes = np.zeros((len(DECISIONS), len(DECISIONS)), np.int64)
    made = Redecided(
        results.path,
        facts,
        dict(results.facts),
        summary,
        changes,
        tuple(_notes(results, options)),
        people=people,
    )
    summary_targets = options.summary if summary_text else ()
    with (
        open_writers(options.out, options.csv, options.partition_by) as writers,
        open_texts(summary_targets) as summaries,
    ):
        columns = _carried_columns(results, options.out)
        if decisions:
            # Those of an earlier time are replaced, and are the last of the carried ones.
            columns = [column for column in columns if column.name not in FINAL_COLUMNS]
            columns += [Column(name, pa.string()) for name in FINAL_COLUMNS]
        for writer in writers:
            writer.start(facts, columns, results.labels)
        count = 0
        for piece in pieces(results):
            counted, own = machine.decide(piece)
            carried = dict(piece.carried)
            if decisions and people:
                final = decisions.final(piece.first, own, counted.severity)
                people.count(final)
                counted = _by_people(counted, final)
                carried |= final.columns()
            count_rows(summary, piece, counted)
            np.add.at(changes, (piece.severity, counted.severity), 1)
            for writer in writers:
                writer.write_columns(
                    [own[name] for name in results.own],
                    [carried[column.name] for column in columns],
                )
            count += len(piece)
        if decisions:
            decisions.check_rows(count)
        summary.ended, summary.seconds = datetime.now(UTC), time.monotonic() - clock
        # What takes its time, and may fail, comes first: files appear all or none.
        for writer in writers:
            writer.seal(facts)
        if summary_text:
            for file in summaries:
                file.seal(summary_text(made, file.target))
        with finishing([*options.out, *summary_targets]):
            for writer in writers:
                made.outputs.update(writer.commit(facts))
            for file in summaries:
                file.commit()
    return made


def _by_people(machine: Counted, final: Final) -> Counted:
    """What is counted where people decided; the reasons name them before those of the machine."""
    codes, reasons = machine.reasons.codes.copy(), list(machine.reasons.values)
    known: dict[tuple[str, int], int] = {}
    for index, verdict in final.verdicts.items():
        key = (verdict.by, int(codes[index]))
        if key not in known:
            known[key] = len(reasons)
            reasons.append((f"{DECIDED_BY}{key[0]}", *reasons[key[1]]))
        codes[index] = known[key]
    return Counted(final.severity, Encoded(reasons, codes), machine.bands)


def _facts(results: Results, loaded: LoadedPolicy | None, started: datetime) -> dict[str, str]:
    """The audit facts of the source, with what is true of these decisions."""
    replaced = {"sha256", "csv"}
    if loaded:  # a preset has no file to take the place of the earlier one
        replaced.add("policy_file")
    facts = {key: value for key, value in results.facts.items() if key not in replaced}
    if loaded:
        facts |= {
            "policy": loaded.policy.name,
            "policy_sha256": loaded.sha256,
            "policy_json": loaded.policy.model_dump_json(),
            **({"policy_file": loaded.shown_file} if loaded.shown_file else {}),
        }
    return facts | {
        "tool": "moderate",
        "decided_from": results.sha256,
        "decided": utc(started),
        "decided_version": __version__,
    }


def _people_facts(files: Sequence[str]) -> dict[str, str]:
    """Which journals people's decisions come from, by their digests as they are now."""
    digests = [sha256_of(file) for file in files if os.path.isfile(file)]
    return {"decisions_sha256": "; ".join(digests)} if digests else {}


def _notes(results: Results, options: DecideOptions) -> Iterator[str]:
    if has_final(results) and not options.decisions:
        yield (
            "People have decided on the source: final_decision stays as it was, and the machine's "
            "decisions are counted. Give --decisions again to put them together."
        )
    if not results.facts:
        yield "The source has no audit facts: which weights gave the scores is not known."
    elif results.mismatch:
        yield ("The audit facts beside the source describe another file: its digest is not theirs.")


def audit_of_facts(facts: dict[str, str], started: datetime) -> Audit:
    """What a summary asks of a run, as far as the facts have it."""
    return Audit(
        version=facts.get("version", ""),
        run_id=facts.get("run_id", ""),
        weights=facts.get("weights", ""),
        weights_sha256=facts.get("weights_sha256", ""),
        weights_purpose=facts.get("purpose", ""),
        weights_models=tuple(facts.get("weights_models", "").split("; ")),
        policy=facts["policy"],
        policy_sha256=facts["policy_sha256"],
        policy_json=facts["policy_json"],
        policy_file=facts.get("policy_file"),
        device=facts.get("device", ""),
        precision=facts.get("precision", ""),
        backend=facts.get("backend", ""),
        sandbox=None,
        exact_decode=facts.get("jpeg_decode") == "full",
        torch=facts.get("torch", ""),
        timm=facts.get("timm", ""),
        started=started,
        config=ConfigRecord(facts["config"], facts.get("config_sha256", ""))
        if "config" in facts
        else None,
        coverage=Coverage.of_facts(facts),
        looked_at=facts.get("looked_at", ""),
    )


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


def _carried_columns(results: Results, targets: Sequence[str]) -> list[Column]:
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
