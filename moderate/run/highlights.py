"""What a person looks for under the counts of a run: names of files, and the worst images."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from moderate.decode.sniff import VIDEO_FORMATS
from moderate.own_categories import own_names
from moderate.sources.subset import SKIPPED_KEPT
from moderate.state.masking import mask_argument
from moderate.text import path_text
from moderate.types import CATEGORIES, Decision, Row, Skipped

if TYPE_CHECKING:
    from moderate.run.row_batch import RowBatch

INPUTS_KEPT = 20
INPUTS_NAMED = 3
WORST_KEPT = 5


@dataclass(frozen=True, slots=True, order=True)
class Worst:
    """An image among the worst: they are ordered by severity, then by score; the first met wins."""

    severity: int
    score: float
    earlier: int
    path: str = field(compare=False)
    category: str = field(compare=False)

    @classmethod
    def of(cls, row: Row, number: int) -> Self | None:
        """None for a row without scores. number is that of the row in the run."""
        own = own_names(row.labels)
        every = {
            **{c.value: score for c, score in row.scores.items()},
            **{n: row.labels[n] for n in own},
        }
        scores = [(score, category) for category, score in every.items() if score is not None]
        if row.error or not scores:
            return None
        score, category = max(scores, key=lambda pair: pair[0])
        shown = path_text(row.ref.display)
        return cls(row.decision.severity, score, -number, shown, category)

    @property
    def decision(self) -> Decision:
        """What the policy decided."""
        return next(d for d in Decision if d.severity == self.severity)


def _is_frame(row: Row) -> bool:
    """Whether a row is that of a frame: its video has a row of its own, with the digest."""
    facts = row.facts
    return facts.format in VIDEO_FORMATS and facts.sha256 is None and b"!/" in row.ref.path


@dataclass(slots=True)
class Highlights:
    """Kept while rows pass by; memory does not grow with their number.

    inputs are the first names of input_count, and outputs what is written; both are as they were
    asked for, without credentials. copies are rows whose
    file has the same bytes as that of an earlier row, frames are rows of frames of videos.
    """

    inputs: tuple[str, ...] = ()
    input_count: int = 0
    outputs: tuple[str, ...] = ()
    copies: int = 0
    frames: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    _rows: int = 0
    _worst: list[Worst] = field(default_factory=list)

    @classmethod
    def of(cls, inputs: Sequence[str], outputs: Sequence[str]) -> Self:
        """Those of a run that begins."""
        kept = tuple(mask_argument(name) for name in inputs[:INPUTS_KEPT])
        return cls(kept, len(inputs), tuple(mask_argument(name) for name in outputs))

    def count(self, row: Row) -> None:
        """Take one row in."""
        self._rows += 1
        if row.duplicate_of is not None:
            self.copies += 1
        elif _is_frame(row):
            self.frames += 1
        else:
            self._keep(row)  # which a copy or a frame would have in the list twice

    def _keep(self, row: Row) -> None:
        worst = self._worst
        if len(worst) == WORST_KEPT and row.decision.severity < worst[0].severity:
            return
        if found := Worst.of(row, self._rows):
            self._keep_if_worse(found)

    def count_batch(self, batch: RowBatch) -> None:
        """Take many rows in; none has an error or is a frame of a video."""
        before, severity = self._rows, batch.decided.severity
        self._rows += len(batch)
        scores = batch.known.contents.heads["scores"]
        names = tuple(category.value for category in CATEGORIES)
        if own := own_names(batch.labels):
            others = batch.known.contents.labels[:, [batch.labels.index(name) for name in own]]
            scores, names = np.concatenate([scores, others], axis=1), (*names, *own)
        candidates = ~np.isnan(scores).all(axis=1)
        if (firsts := batch.known.duplicate_of) is not None:
            copies = np.array([first is not None for first in firsts])
            self.copies += int(copies.sum())
            candidates &= ~copies
        if len(self._worst) == WORST_KEPT:
            candidates &= severity >= self._worst[0].severity
        places = np.flatnonzero(candidates)
        if not len(places):
            return
        best = np.fmax.reduce(scores[places], axis=1)
        # The worst of them, the first of equals before the others.
        order = np.lexsort((places, -best, -severity[places].astype(int)))[:WORST_KEPT]
        for place, score in zip(places[order].tolist(), best[order].tolist(), strict=True):
            found = Worst(
                int(severity[place]),
                score,
                -(before + place + 1),
                batch.path(place),
                names[int(np.nanargmax(scores[place]))],
            )
            self._keep_if_worse(found)

    def _keep_if_worse(self, found: Worst) -> None:
        worst = self._worst
        if len(worst) < WORST_KEPT:
            heapq.heappush(worst, found)
        elif found > worst[0]:
            heapq.heapreplace(worst, found)

    def count_columns(
        self,
        paths: Any,
        severity: NDArray[np.int8],
        scores: NDArray[np.float32],
        copies: NDArray[np.bool_],
        frames: NDArray[np.bool_],
        names: Sequence[str] = CATEGORIES,
    ) -> None:
        """Take rows in by columns, as `count` does one by one.

        scores is (names, rows), NaN for what was not scored; paths are an Arrow array.
        """
        frames = frames & ~copies
        self.copies += int(copies.sum())
        self.frames += int(frames.sum())
        known = np.where(np.isnan(scores), np.float32(-1), scores)
        best, category = known.max(axis=0), known.argmax(axis=0)
        usable = np.flatnonzero((best >= 0) & ~copies & ~frames)
        order = np.lexsort((usable, -best[usable], -severity[usable]))[:WORST_KEPT]
        for index in sorted(usable[order].tolist()):
            name = str(names[category[index]])
            number = self._rows + index + 1
            found = Worst(
                int(severity[index]), float(best[index]), -number, paths[index].as_py(), name
            )
            if len(self._worst) < WORST_KEPT:
                heapq.heappush(self._worst, found)
            elif found > self._worst[0]:
                heapq.heapreplace(self._worst, found)
        self._rows += len(severity)

    def count_skipped(self, skipped: Skipped) -> None:
        """Take one file that got no row in."""
        names = self.skipped.setdefault(skipped.reason.value, [])
        if len(names) < SKIPPED_KEPT:
            names.append(path_text(skipped.path))

    def named_inputs(self) -> str:
        """The first inputs and how many more there are, for a message."""
        names = ["standard input" if name == "-" else name for name in self.inputs[:INPUTS_NAMED]]
        if self.input_count > len(names):
            names.append(f"{self.input_count - len(names)} more")
        return ", ".join(names)

    @property
    def worst(self) -> list[Worst]:
        """The worst images, the worst first."""
        return sorted(self._worst, reverse=True)

    @property
    def images(self) -> int:
        """Rows without copies and frames of videos: what the run looked at."""
        return self._rows - self.copies - self.frames

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "inputs": list(self.inputs),
            "input_count": self.input_count,
            "outputs": list(self.outputs),
            "images": self.images,
            "copies": self.copies,
            "video_frames": self.frames,
            "skipped_examples": {reason: list(names) for reason, names in self.skipped.items()},
            "worst": [
                {
                    "path": each.path,
                    "category": each.category,
                    "score": round(each.score, 6),
                    "decision": each.decision.value,
                }
                for each in self.worst
            ],
        }
