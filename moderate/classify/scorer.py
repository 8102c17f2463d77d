"""What scores the batches of a run: a model in this process, several, or models elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from moderate.classify.classifier import Batch, Scored
from moderate.classify.device import Placement
from moderate.decode.resize import Pixels


class PendingScores(Protocol):
    """A batch that was submitted. Its arrays must not change before `scored` has returned."""

    def is_ready(self) -> bool:
        """Whether the scores are known to be there, so that taking them does not wait."""
        ...

    def scored(self) -> list[Scored]:
        """Wait for the scores of each image, in order. Call it once, in the order of `submit`.

        Raises DeviceError where the device no longer works.
        """
        ...


class Scorer(Protocol):
    """See `Classifier`, which is one."""

    @property
    def placement(self) -> Placement:
        """Where it runs."""
        ...

    @property
    def depth(self) -> int:
        """How many submitted batches may usefully be outstanding."""
        ...

    @property
    def batch_limit(self) -> int | None:
        """How many images fit in memory at once, where batches had to be made smaller."""
        ...

    def submit(self, batch: Batch) -> PendingScores:
        """Begin with a batch: one contiguous N x H x W x 3 array per model, 1 <= N."""
        ...

    def pin(self, buffers: Sequence[Pixels]) -> None:
        """Make copies from these buffers, which batches will be views of, faster if possible."""
        ...

    def close(self) -> None:
        """Let go of the device. Harmless when repeated."""
        ...
