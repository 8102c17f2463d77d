"""What a run needs processes and memory for: the decoders and the model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from moderate.classify.backends import ir_cache
from moderate.classify.device import Placement, most_replicas, place
from moderate.cores import available_cores
from moderate.decode.pool import DecoderPool
from moderate.decode.video import VideoSampler
from moderate.errors import RunError
from moderate.run.interface import Job, Second
from moderate.run.items import Item
from moderate.system_limits import no_thread_limit
from moderate.types import Limits

if TYPE_CHECKING:
    from moderate.classify.scorer import Scorer

NICENESS = 5
"""Of decoders that share the cores with the model: the model goes first, they fill what is left."""


class Resources:
    """The decoders and the model of a job; a context manager.

    They serve one run. Where they `last`, runs of jobs that differ in their sources alone may use
    them one after the other; a run that does not come to its end is the last. Decoders and the
    model are started when there is an image for them; the decoders at the beginning where
    `at_once`. Used by one thread at a time.
    """

    def __init__(self, job: Job, *, at_once: bool = False, last: bool = False) -> None:
        self._job = job
        self._placement: Placement | None = None
        self._stack = ExitStack()
        self._second: dict[str, Resources] = {}
        self.classifier: Scorer | None = None
        """The model, or one for each device, once it is loaded."""
        self.pool: DecoderPool[Item] = DecoderPool(
            job.specs,
            _decoding_limits(job),
            job.workers,
            job.options.batch_size,
            options=job.decode_options,
            niceness=NICENESS,
            require_sandbox=job.options.require_sandbox,
            at_once=at_once,
            images_per_decoder=job.options.images_per_decoder,
            lasts=last,
            replicas=most_replicas(job.options.device),
        )

    def __enter__(self) -> Self:
        self._stack.enter_context(self.pool)
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes and let go of the model."""
        self._stack.close()

    def of_second(self, second: Second) -> Resources:
        """Those of a second opinion, which last as long as these."""
        key = second.bundle.sha256
        if key not in self._second:
            own = Resources(self._job.of_second(second), last=True)
            self._second[key] = self._stack.enter_context(own)
        return self._second[key]

    @property
    def planned(self) -> Placement:
        """The device and precision that were chosen. Raises DeviceError."""
        if self._placement is None:
            options = self._job.options
            self._placement = place(
                options.device, options.precision, options.backend, self._job.bundle.kinds
            )
        return self._placement

    def load(self) -> Scorer:
        """The model, which is loaded if it is not yet. Raises DeviceError, WeightsError, RunError.

        Its placement may differ from the planned one: the backend may not suit the model.
        """
        from moderate.classify.replicas import open_scorer

        if self.classifier is None:
            job = self._job
            if limit := no_thread_limit(available_cores()):
                raise RunError(f"{limit}; the model needs a thread for each core")
            with ir_cache.kept_in(job.converted):
                scorer = open_scorer(
                    job.bundle,
                    self.planned,
                    batch_size=job.options.batch_size,
                    compile=job.options.compile,
                    labels=job.labels,
                )
            self._stack.callback(scorer.close)
            self.classifier = scorer
            self.classifier.pin(self.pool.buffers)
        return self.classifier


def make_sampler(job: Job) -> VideoSampler | None:
    """The sampler of the job's videos; None where they are not sampled."""
    if job.options.video is None:
        return None
    return VideoSampler(
        job.options.video,
        job.options.limits,
        exact=job.options.exact_decode,
        niceness=NICENESS,
        require_sandbox=job.options.require_sandbox,
    )


def _decoding_limits(job: Job) -> Limits:
    """--max-file-size does not apply to what is not compressed: frames of videos, and pixels."""
    sampler = make_sampler(job)
    largest = [source.largest_image(job.options.limits) for source in job.sources]
    still_bytes = sampler.still_bytes if sampler else 0
    most = max([job.options.limits.max_file_bytes, still_bytes, *largest])
    return replace(job.options.limits, max_file_bytes=most)
