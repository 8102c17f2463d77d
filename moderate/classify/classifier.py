"""A bundle on a device: batches of decoded images to scores in categories."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from moderate.classify import selftest
from moderate.classify.bundle import Bundle
from moderate.classify.card import Calibration, Combine, ModelCard
from moderate.classify.device import Placement
from moderate.classify.labels import LabelModel, model_batch
from moderate.decode.resize import Pixels
from moderate.errors import WeightsError
from moderate.native import claim
from moderate.text import one_line
from moderate.types import CATEGORIES, UNSCORED, ErrorCode, ImageError, Scores

log = logging.getLogger(__name__)

Outcome = Scores | ImageError


class Scored(NamedTuple):
    """The outcome of one image in the five categories, with the other scores that were asked for.

    labels are those of own categories and labels, in order: float32 values in 0..1; there are none
    for an error.
    """

    outcome: Outcome
    labels: tuple[float, ...] = ()


Batch = tuple[Pixels, ...]
"""One N x H x W x 3 array for each model of the bundle."""

# What torch, CUDA's libraries and OpenVINO say when memory runs out, in errors without a type.
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Member:
    """One model of the bundle with, per category, the columns to sum for each of its sources.

    kept has the column of each label that was asked for, by its place among those.
    """

    model: LabelModel
    columns: dict[str, tuple[tuple[int, ...], ...]]
    kept: dict[int, int]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a batch on its way through the models, which were given `padded` images."""

    batch: Batch
    padded: int
    started: list[Callable[[], NDArray[np.float32]]] | Exception


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch that was submitted. Its arrays must not change before `result` has returned."""

    _classifier: Classifier
    _parts: Sequence[_Part]

    def is_ready(self) -> bool:
        """Whether the result is known to be there: False, since the backends do not tell."""
        return False

    def result(self) -> list[Outcome]:
        """Wait for the scores of each image, in order. Call it once, in the order of `submit`.

        Raises DeviceError where the device no longer works.
        """
        return [scored.outcome for scored in self.scored()]

    def scored(self) -> list[Scored]:
        """`result` with the scores of labels; one of the two is called."""
        found = [scored for part in self._parts for scored in self._classifier._finish(part)]
        if all(_is_failure(scored.outcome) for scored in found):
            # A GPU that is lost fails every batch from now on, each of them at once.
            self._classifier.check_device()
        return found


class Classifier:
    """Scores batches; a context manager that holds the device.

    Raises WeightsError or DeviceError while it is built. A batch that fails as a whole is tried
    again image by image; the ones that still fail get `classify_failed`, those whose output is NaN
    or infinite `non_finite_score`. `submit` raises nothing, and results only DeviceError, where the
    device itself no longer works.

    The models always run on batches of one size, padded with black where images are missing, so an
    image's scores do not depend, to the last bit, on what else was scored. That size is batch_size
    on CUDA, and a few images (`CPU_BATCH`) on the CPU. Only out of memory is it halved.

    compile asks for torch.compile. inference_threads is for the CPU; all available cores without.
    labels are names of the bundle's own categories, or of labels as `Bundle.labels` has them, whose
    scores `Pending.scored` gives.
    """

    def __init__(
        self,
        bundle: Bundle,
        placement: Placement,
        *,
        batch_size: int = 32,
        compile: bool = False,
        inference_threads: int | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        assert not placement.others, "several devices are for Replicas"
        self.labels = tuple(labels)
        places = {name: place for place, name in enumerate(labels)}
        fed = set(bundle.card.own_categories)
        self._own = {name: place for name, place in places.items() if name in fed}
        self._calibration = bundle.card.calibration
        self._combine = bundle.card.combine
        self._placement = placement
        self._batch_size = batch_size
        self._size = model_batch(placement, batch_size)
        self._limit: int | None = None
        self._stack = ExitStack()
        self._members: list[_Member] = []
        claim()
        with self._stack:
            for files, names in zip(bundle.models, bundle.labels, strict=True):
                model = LabelModel(
                    files,
                    placement,
                    batch_size=batch_size,
                    compile=compile,
                    threads=inference_threads,
                )
                self._stack.callback(model.backend.close)
                kept = {places[n]: column for column, n in enumerate(names) if n in places}
                feeding = label_columns(files.card, files.labels)
                self._members.append(_Member(model, feeding, kept))
            if "onnx" in bundle.kinds:
                self._compare_with_install(bundle)
            self._stack = self._stack.pop_all()

    def _compare_with_install(self, bundle: Bundle) -> None:
        """Hold a runtime of ONNX graphs against the scores that were recorded at install.

        Raises WeightsError where they differ.
        """
        if bundle.card.selftest is None:
            return
        result = selftest.check(bundle, self, self.placement, bundle.card.selftest)
        if not result.passed:
            placement = self.placement
            raise WeightsError(
                f"{bundle.name}: {placement.backend} on {placement.shown} in {placement.precision} "
                f"gives scores that differ by {result.difference:.1e} from those recorded at "
                f"install, {result.tolerance:.0e} being allowed"
            )

    def __enter__(self) -> Self:
        """Return itself: the constructor has loaded everything."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Let go of pinned memory and restore torch's thread count. Harmless when repeated."""
        self._stack.close()

    @property
    def placement(self) -> Placement:
        """Where it runs, with the backend that took the place of one that could not."""
        used = sorted({member.model.backend_name for member in self._members})
        return replace(self._placement, backend="+".join(used))

    def check_device(self) -> None:
        """Raises DeviceError where the device no longer works, whatever it is given."""
        for member in self._members:
            member.model.backend.check()

    @property
    def depth(self) -> int:
        """How many submitted batches may usefully be outstanding."""
        return max(member.model.backend.depth for member in self._members)

    @property
    def batch_limit(self) -> int | None:
        """How many images fit in memory at once, where batches had to be made smaller."""
        return self._limit

    def pin(self, buffers: Sequence[Pixels]) -> None:
        """Make copies from these buffers, which batches will be views of, faster where possible.

        They must live until `close`.
        """
        # Pinned memory belongs to the process: one registration serves every model.
        self._members[0].model.backend.pin(buffers)

    def submit(self, batch: Batch) -> Pending:
        """Begin with a batch: one contiguous N x H x W x 3 array per model, 1 <= N.

        uint8, or float32 in 0..255 where the model's PixelSpec says so. Backends share the memory
        of arrays, and refuse to where it is read-only, as in Ray's object store: those are copied.
        """
        batch = tuple(np.require(pixels, requirements="W") for pixels in batch)
        return Pending(self, [self._start(part, self._size) for part in _split(batch, self._size)])

    def score(self, images: Sequence[tuple[Pixels, ...]]) -> list[Outcome]:
        """Scores of each image, in order; an image holds one H x W x 3 array per model."""
        return [scored.outcome for scored in self.score_all(images)]

    def score_all(self, images: Sequence[tuple[Pixels, ...]]) -> list[Scored]:
        """`score` with the scores of own categories and labels."""
        every: list[Scored] = []
        for first in range(0, len(images), self._batch_size):
            some = images[first : first + self._batch_size]
            batch = tuple(np.stack(arrays) for arrays in zip(*some, strict=True))
            every += self.submit(batch).scored()
        return every

    def _start(self, batch: Batch, padded: int) -> _Part:
        started: list[Callable[[], NDArray[np.float32]]] = []
        try:
            for member, pixels in zip(self._members, batch, strict=True):
                started.append(member.model.start(pixels, padded))
        except Exception as error:  # noqa: BLE001 - it becomes the outcome of these images
            # Without its frames, which hold the memory of the failed attempt.
            return _Part(batch, padded, error.with_traceback(None))
        return _Part(batch, padded, started)

    def _finish(self, part: _Part) -> list[Scored]:
        failure: Exception
        if isinstance(part.started, Exception):
            failure = part.started
        else:
            try:
                return self._scored([wait() for wait in part.started])
            except Exception as error:  # noqa: BLE001 - one image must not cost the others their row
                failure = error.with_traceback(None)
        # Retry here, outside the handler: only now is the failed attempt's memory free again.
        return self._retry(part, failure)

    def _retry(self, part: _Part, failure: Exception) -> list[Scored]:
        if _out_of_memory(failure):
            for member in self._members:
                member.model.backend.release()
            if part.padded > 1:
                # Batches that were under way at the old size fail too: they halve nothing more.
                if part.padded == self._size:
                    self._size = self._limit = self._size // 2
                    device = self._placement.device
                    log.warning(
                        "out of memory%s with %d images at once: going on with %d",
                        "" if device == "cpu" else f" on {device}",
                        part.padded,
                        self._size,
                    )
                return self.submit(part.batch).scored()
        count = len(part.batch[0])
        if count == 1:
            return [Scored(ImageError(ErrorCode.CLASSIFY_FAILED, _failure(failure)))]
        log.warning("a batch of %d failed (%s); trying image by image", count, _failure(failure))
        return [
            scored
            for image in _split(part.batch, 1)
            for scored in self._finish(self._start(image, self._size))
        ]

    def _scored(self, results: Sequence[NDArray[np.float32]]) -> list[Scored]:
        """N x labels probabilities of each model to scores."""
        found: dict[str, list[NDArray[np.float32]]] = {}
        kept = np.zeros((len(results[0]), len(self.labels)), np.float32)
        finite = np.ones(len(results[0]), dtype=bool)
        for member, probabilities in zip(self._members, results, strict=True):
            finite &= np.isfinite(probabilities).all(axis=1)
            for place, column in member.kept.items():
                kept[:, place] = probabilities[:, column].clip(0, 1)
            for category, sources in member.columns.items():
                values = [_sum(probabilities, columns).clip(0, 1) for columns in sources]
                found.setdefault(category, []).append(reduce(np.maximum, values))
        best = {
            category: _combined(values, self._combine.get(category, "max"))
            for category, values in found.items()
        }
        for category, calibration in self._calibration.items():
            if category in best:
                best[category] = calibrate(best[category], calibration)
        for name, place in self._own.items():
            kept[:, place] = best[name]
        return [
            Scored(
                _outcome(best, row, bool(finite[row])), tuple(kept[row].tolist()) if good else ()
            )
            for row, good in enumerate(finite)
        ]


def label_columns(card: ModelCard, labels: Sequence[str]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Per category, own ones among them, the columns of the output that feed it.

    Its score is the maximum over sums of columns.
    """
    position = {label: index for index, label in enumerate(labels)}
    return {
        category: tuple(
            tuple(position[label] for label in ([item] if isinstance(item, str) else item))
            for item in sources
        )
        for category, sources in card.fed()
    }


def calibrate(scores: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Calibrated scores, float32 in 0..1, of raw ones; see `Calibration` for the formula."""
    raw = scores.astype(np.float64)
    if calibration.table:
        points = np.asarray(calibration.table)
        interpolated: NDArray[np.float32] = np.interp(raw, points[:, 0], points[:, 1]).astype(
            np.float32
        )
        return interpolated
    # In float32 the largest value below 1 is 1 - 6e-8: no score needs more than this.
    bounded = raw.clip(1e-12, 1 - 1e-12)
    logit = np.log(bounded) - np.log1p(-bounded)
    with np.errstate(over="ignore"):  # exp of much is infinite, and the score then 0
        scaled: NDArray[np.float32] = (
            1 / (1 + np.exp(-(logit / calibration.temperature + calibration.bias)))
        ).astype(np.float32)
    return scaled


def _split(batch: Batch, size: int) -> list[Batch]:
    return [
        tuple(pixels[first : first + size] for pixels in batch)
        for first in range(0, len(batch[0]), size)
    ]


def _sum(probabilities: NDArray[np.float32], columns: Sequence[int]) -> NDArray[np.float32]:
    # Column by column: the order in which numpy sums over an axis depends on the array's shape.
    total: NDArray[np.float32] = reduce(np.add, (probabilities[:, column] for column in columns))
    return total


def _combined(values: Sequence[NDArray[np.float32]], how: Combine) -> NDArray[np.float32]:
    """One score of each image, float32 in 0..1, from those of several models, in their order."""
    if how == "max" or len(values) == 1:
        return reduce(np.maximum, values)
    # Model by model and in float32, so that it depends on nothing but the image's own scores.
    total = reduce(np.add, values)
    mean: NDArray[np.float32] = (total / np.float32(len(values))).clip(0, 1)
    return mean


def _outcome(best: dict[str, NDArray[np.float32]], row: int, finite: bool) -> Outcome:
    if not finite:
        return ImageError(ErrorCode.NON_FINITE_SCORE, "the model gave NaN or infinity")
    scores = dict(UNSCORED)
    for category in CATEGORIES:
        if category in best:
            scores[category] = float(best[category][row])
    return scores


def _is_failure(outcome: Outcome) -> bool:
    return isinstance(outcome, ImageError) and outcome.code is ErrorCode.CLASSIFY_FAILED


def _out_of_memory(error: Exception) -> bool:
    # Compared by name, because torch may not be imported at all.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))
    )


def _failure(error: Exception) -> str:
    return f"the model failed ({one_line(f'{type(error).__name__}: {error}', 160)})"
