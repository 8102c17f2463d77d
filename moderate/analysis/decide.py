"""Decisions again from stored scores: a results file under another policy, without an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moderate.arrow import python_values
from moderate.classify.coverage import Coverage
from moderate.config import ConfigRecord
from moderate.errors import PolicyError
from moderate.policy.columns import (
    BANDS,
    DECISIONS,
    UNKNOWN_ERROR,
    ColumnJudge,
    Columns,
    Rows,
    Severities,
    labels_of,
    row_of,
    scores_of,
)
from moderate.policy.load import LoadedPolicy, load_policy
from moderate.results.columnar import ColumnsWriter
from moderate.results.read import Results, read_results
from moderate.results.read_format import Chunk
from moderate.results.schema import COLUMNS
from moderate.results.targets import (
    check_distinct,
    check_reports,
    check_targets,
    has_metadata,
    open_texts,
    open_writers,
    read_identities,
    to_stdout,
)
from moderate.run.summary import EXAMPLES_KEPT, Audit, Summary, name_counted
from moderate.run.videos import VideoEnd, video_row
from moderate.text import one_line, printable, utc
from moderate.types import CATEGORIES, LABEL_PREFIX, Column, ImageFacts, ImageRef, Row, Status
from moderate.version import __version__

MOST_ROWS = 100_000
"""Rows that are decided at once."""

OWN = tuple(column.name for column in COLUMNS)

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
        return scores_of([self.own[name] for name in CATEGORIES])

    @cached_property
    def rows(self) -> Rows:
        """What decisions on them depend on."""
        paths: list[list[bytes]] = []
        values: dict[str, list[Any]] = {}

        def all_paths() -> list[bytes]:
            if not paths:
                paths.append(self.exact_paths.to_pylist())
            return paths[0]

        def carried(name: str) -> list[Any]:
            if name not in values:
                values[name] = python_values(self.carried[name])
            return values[name]

        return Rows(
            scores=self.scores,
            warnings=self.own["warnings"],
            failed=self.failed,
            errors=self.own["error_code"],
            paths=all_paths,
            sha256=self.own["sha256"],
            carried=carried,
            labels=lambda name: scores_of([self.own[LABEL_PREFIX + name]])[0],
        )


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
        self.judge = ColumnJudge(loaded, results.carried, today)
        self.labels = self.judge.judge.labels
        if missing := [name for name in self.labels if name not in results.labels]:
            raise PolicyError(
                f"policy {printable(loaded.policy.name)}: labels.{missing[0]!r}: the results have "
                f"no column {LABEL_PREFIX}{missing[0]}; {_labels_there(results.labels)}"
            )
        self._video: bytes | None = None
        self._frames: list[Row] = []

    def decide(self, piece: Piece) -> Columns:
        """What becomes of the rows."""
        made = self.judge.decide(piece.rows)
        self._decide_videos(piece, made)
        return made

    def _decide_videos(self, piece: Piece, made: Columns) -> None:
        found = pc.match_substring_regex(piece.own["path"], _FRAME)
        frames = found.to_numpy(zero_copy_only=False)
        if not (self._frames or frames.any()):
            return
        after = np.flatnonzero(frames) + 1
        of_note = {*np.flatnonzero(frames).tolist(), *after[after < len(piece)].tolist(), 0}
        changed: dict[int, str] = {}
        for index in sorted(of_note):
            path = piece.exact_paths[index].as_py()
            if frames[index]:
                video = path.rpartition(b"!/")[0]
                if video != self._video:
                    self._video, self._frames = video, []
                self._frames.append(self._row(piece, made, index))
                continue
            if self._frames and path == self._video and not piece.failed[index]:
                row = self._row(piece, made, index)
                end = VideoEnd(row.ref, row.facts)
                judged = video_row(self.judge.judge, end, self._frames)
                made.severity[index] = judged.decision.severity
                changed[index] = "; ".join(judged.reasons)
            self._video, self._frames = None, []
        if changed:
            mask = np.zeros(len(piece), bool)
            mask[list(changed)] = True
            texts = pa.array([changed[index] for index in sorted(changed)], pa.string())
            made.reasons = pc.replace_with_mask(made.reasons, pa.array(mask), texts)

    def _row(self, piece: Piece, made: Columns, index: int) -> Row:
        scores, warnings, error = row_of(piece.rows, index)
        asked = self.judge.columns  # of the others, no policy knows
        carried = tuple(
            piece.rows.carried(name)[index] if name in asked else None
            for name in self.judge.judge.columns
        )
        sha256 = piece.own["sha256"][index].as_py()
        return Row(
            ref=ImageRef(piece.exact_paths[index].as_py(), carried=carried),
            facts=ImageFacts(sha256=sha256, warnings=warnings),
            scores=scores,
            decision=DECISIONS[made.severity[index]],
            reasons=tuple(made.reasons[index].as_py().split("; ")),
            error=error,
            labels=labels_of(piece.rows, index, self.labels),
        )


def _labels_there(names: Sequence[str]) -> str:
    if not names:
        return "scan again with this policy, or with --keep-labels"
    return f"they have {one_line(', '.join(names), 400)}"


@dataclass(frozen=True, slots=True)
class DecideOptions:
    """What to decide again and by what; the names are those of the command line."""

    results: str
    policy: str
    out: Sequence[str] = ()
    summary: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Redecided:
    """What came of it: counts as of a scan, and of changes.

    facts are the audit facts of what was written, before those of the source. changes counts the
    rows by severity, before (first axis) and now. notes are sentences for every form of it.
    """

    source: str
    facts: dict[str, str]
    before: dict[str, str]
    summary: Summary
    changes: NDArray[np.int64]
    notes: tuple[str, ...]
    outputs: dict[str, str] = field(default_factory=dict)


def redecide(
    options: DecideOptions, summary_text: Callable[[Redecided, str], str] | None = None
) -> Redecided:
    """Read a results file, decide on its rows by another policy, and write them.

    summary_text gives the text of a summary for a target; without it, no summary is written.
    Nothing is put under a target's name before all rows are there. Raises UsageError, PolicyError,
    InputError for what is no results file, OutputError.
    """
    clock, started = time.monotonic(), datetime.now(UTC)
    check_targets(options.out)
    check_reports("--summary", options.summary)
    results = read_results(options.results)
    inputs = read_identities([options.results, options.policy])
    check_distinct(options.out, options.summary, inputs)
    loaded = load_policy(options.policy)
    facts = _facts(results, loaded, started)
    redecider = Redecider(loaded, results)
    judge = redecider.judge.judge
    summary = Summary(_audit(facts, started), loaded.policy, judge)
    changes = np.zeros((len(DECISIONS), len(DECISIONS)), np.int64)
    made = Redecided(
        results.path, facts, dict(results.facts), summary, changes, tuple(_notes(results))
    )
    summary_targets = options.summary if summary_text else ()
    with open_writers(options.out) as opened, open_texts(summary_targets) as summaries:
        writers = [ColumnsWriter(writer) for writer in opened]
        columns = _carried_columns(results, options.out)
        for writer in writers:
            writer.start(facts, columns, results.labels)
        for piece in pieces(results):
            decided = redecider.decide(piece)
            _count(summary, piece, decided)
            np.add.at(changes, (piece.severity, decided.severity), 1)
            own = {**piece.own, **decided.views, "reasons": decided.reasons}
            own["decision"] = decided.decisions()
            for writer in writers:
                writer.write([own[name] for name in results.own], list(piece.carried.values()))
        summary.ended, summary.seconds = datetime.now(UTC), time.monotonic() - clock
        if summary_text:
            for file in summaries:
                file.seal(summary_text(made, file.target))
        for writer in writers:
            made.outputs.update(writer.commit(facts))
        for file in summaries:
            file.commit()
    return made


def _facts(results: Results, loaded: LoadedPolicy, started: datetime) -> dict[str, str]:
    """The audit facts of the source, with what is true of these decisions."""
    facts = {key: value for key, value in results.facts.items() if key != "sha256"}
    return facts | {
        "policy": loaded.policy.name,
        "policy_sha256": loaded.sha256,
        "policy_json": loaded.policy.model_dump_json(),
        "decided_from": results.sha256,
        "decided": utc(started),
        "decided_version": __version__,
    }


def _notes(results: Results) -> Iterator[str]:
    if not results.facts:
        yield "The source has no audit facts: which weights gave the scores is not known."
    elif results.mismatch:
        yield ("The audit facts beside the source describe another file: its digest is not theirs.")


def _audit(facts: dict[str, str], started: datetime) -> Audit:
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
    )


def _count(summary: Summary, piece: Piece, made: Columns) -> None:
    """Take rows into the counts, as `Summary.count` does one by one."""
    summary.rows += len(piece)
    for severity, count in enumerate(np.bincount(made.severity, minlength=len(DECISIONS))):
        summary.decisions[DECISIONS[severity]] += int(count)
    for cell in pc.value_counts(piece.own["warnings"]).to_pylist():
        for warning in (cell["values"] or "").split("; ") if cell["values"] else ():
            summary.warnings[name_counted(warning, summary.warnings)] += cell["counts"]
    failed = np.flatnonzero(piece.failed)
    summary.errors += len(failed)
    scored = made.bands[:, ~piece.failed]
    for counts, bands in zip(summary.bands.values(), scored, strict=True):
        for band, count in zip(BANDS, np.bincount(bands, minlength=len(BANDS)), strict=True):
            counts[band] += int(count)
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
    return [Column(name, kind) for name, kind in _json_types(results).items()]


def _json_types(results: Results) -> dict[str, Any]:
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
