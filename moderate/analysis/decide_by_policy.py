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
from moderate.levels import LABEL, read_levels, scale_labels
from moderate.own_categories import label_names, own_names, score_column
from moderate.places import read_places
from moderate.policy.batch import Decided, Encoded
from moderate.policy.described import HOW_TO_BUILD, check_described, check_thresholds
from moderate.policy.judge import Judge
from moderate.policy.lists import Lists
from moderate.policy.load import LoadedPolicy
from moderate.policy.model import Policy
from moderate.policy.reasons import placed
from moderate.policy.rows import judge_rows
from moderate.policy.thresholds import DECISIONS, Severities
from moderate.results.read import Results
from moderate.run.hash_columns import PDQ, PDQ_QUALITY
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
    hashes = (PDQ, PDQ_QUALITY) if judge.compares_hashes else ()
    wanted = dict.fromkeys((*judge.columns_needed, *hashes))
    return [name for name in wanted if name in results.carried]


class Redecider:
    """Decides on the rows of a file by one policy; the pieces are given in their order.

    A video is decided as in a scan: by its own scores and by the rows of its frames before it.
    Raises PolicyError where the policy names an own category or a label that the results do not
    have the scores of, or asks for second opinions that they do not have. rated says that ratings
    are wanted, too: then also for levels that match by descriptions which the results have no
    scores of.
    """

    def __init__(
        self,
        loaded: LoadedPolicy,
        results: Results,
        today: date | None = None,
        *,
        rated: bool = False,
    ) -> None:
        check_second_opinions(loaded, results)
        self.loaded = loaded
        self.judge = Judge.of(loaded, today, results.carried, results.labels)
        _check_levels(self.judge, results, rated=rated)
        self.labels = self.judge.scored
        if missing := [name for name in self.labels if name not in results.labels]:
            raise PolicyError(
                f"policy {printable(loaded.policy.name)}: {_key(missing[0])}: the results have no "
                f"column {score_column(missing[0])}; {_there(missing[0], results.labels)}"
            )
        if self.judge.compares_hashes and PDQ not in results.carried:
            raise PolicyError(
                f"policy {printable(loaded.policy.name)}: it has PDQ hashes on its lists, and the "
                "results have no column pdq; scan with that policy, or with --pdq"
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
                end, levels = VideoEnd(row.ref, row.facts), self.judge.level_labels
                videos[index] = Video.of(end, self._frames, levels)
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


def _check_levels(judge: Judge, results: Results, *, rated: bool) -> None:
    """Raise PolicyError where ratings by description are wanted that the results cannot give.

    Nothing but their audit facts says which descriptions the stored scores are of.
    """
    stored = read_levels(results.facts.get("levels"))
    labels = scale_labels(stored or (), results.labels)
    check_thresholds(judge, {*judge.level_labels, *labels})
    if not (rated and judge.described_scales):
        return
    again = f"scan again with weights for this policy ({HOW_TO_BUILD})"
    if stored is not None:
        check_described(judge, stored, there="the results have scores of", advice=again)
    for scale in judge.described_scales:
        if not scale_labels(scale, results.labels):
            column = f"{LABEL_PREFIX}MODEL/{LABEL}{scale[0].value}"
            raise PolicyError(
                f"policy {printable(judge.policy.name)}: rating: its levels match by description; "
                f"the results have no scores of them (columns as {column}); {again}"
            )


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


def _key(name: str) -> str:
    """Where a policy has its thresholds."""
    return f"labels.{name!r}" if label_names([name]) else f"categories.own.{name}"


def _there(name: str, scored: Sequence[str]) -> str:
    """Which such scores there are, or what to do where there are none."""
    if label_names([name]):
        there, otherwise = label_names(scored), "scan again with this policy, or with --keep-labels"
    else:
        there, otherwise = own_names(scored), "scan with weights that feed this category"
    return f"they have {one_line(', '.join(there), 400)}" if there else otherwise


class Counted(NamedTuple):
    """What is counted of decisions; see `Decided`."""

    severity: Severities
    reasons: Encoded[tuple[str, ...]]
    bands: Severities


class ByPolicy:
    """The machine's decisions by another policy."""

    def __init__(self, loaded: LoadedPolicy, results: Results) -> None:
        self.policy = loaded.policy
        self._redecider = Redecider(loaded, results, rated=True)
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
