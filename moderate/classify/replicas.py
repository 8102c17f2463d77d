"""Several devices with a model each: batches go to whichever is free, results come in order.

Each replica is a `Classifier` with a thread of its own, which alone uses it. The threads draw
batches from one queue, so that a slower device gets fewer of them. Each batch has a queue of its
own for its result, from which the caller takes it when its turn comes. There is no lock among what
the caller's thread uses: a signal may end it anywhere.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Self

from moderate.classify.bundle import Bundle
from moderate.classify.classifier import Batch, Classifier, Outcome, Pending, Scored
from moderate.classify.device import Placement
from moderate.classify.scorer import Scorer
from moderate.cores import available_cores
from moderate.decode.resize import Pixels
from moderate.errors import DeviceError, ModerateError
from moderate.text import one_line


@dataclass(frozen=True, slots=True, eq=False)
class PendingReplica:
    """A batch that was submitted. Its arrays must not change before `result` has returned."""

    _batch: Batch
    _answer: queue.SimpleQueue[list[Scored] | ModerateError] = field(
        default_factory=queue.SimpleQueue
    )

    def is_ready(self) -> bool:
        """Whether the result is there, so that taking it does not wait."""
        return not self._answer.empty()

    def result(self) -> list[Outcome]:
        """See `Pending`. Raises DeviceError where the replica that had the batch failed."""
        return [scored.outcome for scored in self.scored()]

    def scored(self) -> list[Scored]:
        """`result` with the scores of labels; one of the two is called."""
        answer = self._answer.get()
        if isinstance(answer, ModerateError):
            raise answer
        return answer


class Replicas:
    """Scores batches on every device of a placement; a context manager, used as a `Classifier` is.

    Raises what `Classifier` raises, with the device's name. Devices of one kind and model give the
    same scores to the bit, so that it does not matter which of them has a batch. Cores are divided
    between replicas on the CPU. One replica that runs out of memory makes its own batches smaller;
    one that fails ends the run, when the results of all batches before have been taken.
    """

    def __init__(
        self,
        bundle: Bundle,
        placement: Placement,
        *,
        batch_size: int = 32,
        compile: bool = False,
        labels: Sequence[str] = (),
    ) -> None:
        self._placement = placement
        self._classifiers: list[Classifier] = []
        self._waiting: queue.SimpleQueue[PendingReplica | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = False  # set by the caller's thread
        self._failure: ModerateError | None = None  # set by the thread of the replica that failed
        self._stack = ExitStack()
        threads = max(1, available_cores() // len(placement.replicas))
        with self._stack:
            for one in placement.replicas:
                try:
                    classifier = Classifier(
                        bundle,
                        one,
                        batch_size=batch_size,
                        compile=compile,
                        inference_threads=threads if one.device == "cpu" else None,
                        labels=labels,
                    )
                except (ModerateError, RuntimeError) as error:
                    raise _named(one.device, error, "does not load") from error
                self._classifiers.append(self._stack.enter_context(classifier))
            self._stack.callback(self._stop)
            for classifier, one in zip(self._classifiers, placement.replicas, strict=True):
                thread = threading.Thread(
                    target=self._serve, args=(classifier, one.device), name="replica", daemon=True
                )
                thread.start()
                self._threads.append(thread)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Self:
        """Return itself: the constructor has loaded everything."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """End the threads, after the batches that they are computing, and let go of the devices."""
        self._stack.close()

    @property
    def placement(self) -> Placement:
        """Where they run, with the backends that took the place of one that could not."""
        used = {name for each in self._classifiers for name in each.placement.backend.split("+")}
        return replace(self._placement, backend="+".join(sorted(used)))

    @property
    def depth(self) -> int:
        """How many submitted batches may usefully be outstanding."""
        return sum(classifier.depth + 1 for classifier in self._classifiers)

    @property
    def batch_limit(self) -> int | None:
        """The smallest of the replicas' limits; None where no batch had to be made smaller."""
        limits = [each.batch_limit for each in self._classifiers]
        return min((limit for limit in limits if limit is not None), default=None)

    def pin(self, buffers: Sequence[Pixels]) -> None:
        """See `Classifier`: memory is registered once, for all devices."""
        self._classifiers[0].pin(buffers)

    def submit(self, batch: Batch) -> PendingReplica:
        """See `Classifier`; the replica that is free first has the batch."""
        pending = PendingReplica(batch)
        if self._failure:
            pending._answer.put(self._failure)
        else:
            self._waiting.put(pending)
        return pending

    def _stop(self) -> None:
        self._stopped = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, classifier: Classifier, device: str) -> None:
        """The thread of one replica."""
        taken: deque[tuple[PendingReplica, Pending | None]] = deque()
        try:
            while not self._stopped:
                # With nothing under way it waits; else the oldest result is due, if there is no
                # other batch to compute beside it.
                if len(taken) <= classifier.depth and (pending := self._next(wait=not taken)):
                    taken.append((pending, None))
                    taken[-1] = pending, classifier.submit(pending._batch)
                elif taken and (submitted := taken[0][1]):
                    taken[0][0]._answer.put(submitted.scored())
                    taken.popleft()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            # Set before the answers, so that who has seen one can submit nothing more.
            self._failure = _named(device, error, "failed")
            for pending, _ in taken:
                pending._answer.put(self._failure)

    def _next(self, *, wait: bool) -> PendingReplica | None:
        try:
            return self._waiting.get(block=wait)
        except queue.Empty:
            return None


def open_scorer(
    bundle: Bundle,
    placement: Placement,
    *,
    batch_size: int = 32,
    compile: bool = False,
    labels: Sequence[str] = (),
) -> Scorer:
    """A `Classifier` for one device, `Replicas` for several. Raises what they raise."""
    if placement.others:
        return Replicas(bundle, placement, batch_size=batch_size, compile=compile, labels=labels)
    return Classifier(bundle, placement, batch_size=batch_size, compile=compile, labels=labels)


def _named(device: str, error: BaseException, what: str) -> ModerateError:
    """The error with the name of the replica's device."""
    if isinstance(error, ModerateError):
        # What is wrong with the weights is so on every device.
        if device in str(error) or not isinstance(error, DeviceError):
            return error
        return type(error)(f"--device {device}: {error}")
    reason = one_line(f"{type(error).__name__}: {error}", 200)
    return DeviceError(f"--device {device}: the model {what}: {reason}")
