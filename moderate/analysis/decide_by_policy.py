"""The machine's decisions on rows of a results file: by another policy, or as they are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.analysis.pieces import Piece, encoded
from moderate.analysis.stored_opinions import check_second_opinions
from moderate.errors import PolicyError
from moderate.places import read_places
from moderate.policy.batch import Decided, Encoded
from moderate.policy.judge import Judge
from moderate.policy.lists import Lists
from moderate.policy.load import LoadedPolicy
from moderate.policy.model import Policy
from moderate.policy.reasons import placed
from moderate.policy.rows import judge_rows
from moderate.policy.thresholds import DECISIONS, Severities
from moderate.results.read import Results
from moderate.run.policy_columns import policy_columns
from moderate.run.videos import Video, VideoEnd
from moderate.text import one_line, printable
from moderate.types import (
    CATEGORIES,
    LABEL_PREFIX,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
)

_FRAME = r"!/[0-9]{2,}:[0-9]{2}:[0-9]{2}\.[0-9]{3}$"


def carried_columns(judge: Judge, results: Results) -> list[str]:
    """The carried columns of the results that decisions depend on."""
    return [name for name in judge.columns_needed if name in results.carried]


class Redecider:
    """Decides on the rows of a file by one policy; the pieces are given in their order.

    A video is decided as in a scan: by its own scores and by the rows of its frames before it.
    Raises PolicyError where the policy names a label that the results do not have the scores of, or
    asks for second opinions that they do not have.
    """

    def __init__(self, loaded: LoadedPolicy, results: Results, today: date | None = None) -> None:
        check_second_opinions(loaded, results)
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


class Counted(NamedTuple):
    """What is counted of decisions; see `Decided`."""

    severity: Severities
    reasons: Encoded[tuple[str, ...]]
    bands: Severities


class ByPolicy:
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
        """See `ByPolicy`."""
        texts = encoded(piece.own["reasons"])
        reasons = [tuple(text.split("; ")) for text in texts.values]
        codes = np.where(texts.codes < 0, len(reasons), texts.codes).astype(np.int32)
        bands = self.judge.bands(piece.batch)
        return Counted(piece.severity, Encoded([*reasons, ()], codes), bands), piece.own
