"""The models of a cluster: actors that score pixels, and what a decoding worker sees of them.

Pixels travel through Ray's object store as the uint8 batches that decoders fill. A worker prefers
the models on its own machine, where that store is shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moderate.classify.classifier import Scored
from moderate.classify.device import Placement
from moderate.classify.scorer import Scorer
from moderate.cluster.setup import Setup
from moderate.decode.resize import Pixels
from moderate.run.resources import Resources

_DEPTH = 3
"""Batches of a worker that are on their way: one computes, one waits beside it, one travels."""


class ModelDiedError(Exception):
    """The process of a model died on a batch, and again when it was tried anew."""


class ModelServer:
    """An actor that holds one model on one device. Methods run one at a time."""

    def __init__(self, setup: Setup) -> None:
        setup.enter()
        # One decoder that is never started: the pixels come from elsewhere.
        job = replace(setup.job, options=replace(setup.job.options, workers=1))
        self._resources = Resources(job)

    def planned(self) -> Placement:
        """Where the model is to run. It is not loaded yet. Raises DeviceError."""
        return self._resources.planned

    def score(self, *batch: Pixels) -> tuple[list[Scored], Placement, int | None]:
        """The scores of a batch, where the model runs, and its batch limit.

        Raises WeightsError, DeviceError or RunError where the model cannot be loaded.
        """
        classifier = self._resources.load()
        scored = classifier.submit(tuple(batch)).scored()
        return scored, classifier.placement, classifier.batch_limit


@dataclass
class RemotePending:
    """A batch that a model scores, as `classifier.Pending`."""

    _classifier: RemoteClassifier
    _server: int
    _reply: Any

    def is_ready(self) -> bool:
        """See `Pending`. True also where the model died: then `scored` says so."""
        import ray

        ready, _ = ray.wait([self._reply], timeout=0)
        return bool(ready)

    def scored(self) -> list[Scored]:
        """See `Pending`. Raises ModelDiedError."""
        return self._classifier.wait_for(self._server, self._reply)


@dataclass
class RemoteClassifier:
    """The models of a cluster in place of `Classifier`, for the engine that decodes."""

    servers: Sequence[Any]
    placement: Placement
    batch_limit: int | None = None
    depth: int = _DEPTH
    _waiting: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is on its way yet."""
        self._waiting = [0] * len(self.servers)

    def submit(self, batch: tuple[Pixels, ...]) -> RemotePending:
        """See `Classifier`. The batch is copied before this returns."""
        server = self._waiting.index(min(self._waiting))
        self._waiting[server] += 1
        return RemotePending(self, server, self.servers[server].score.remote(*batch))

    def wait_for(self, server: int, reply: Any) -> list[Scored]:
        """The scores that a model replies with. Raises ModelDiedError."""
        import ray
        from ray.exceptions import RayActorError

        try:
            scored: list[Scored]
            scored, self.placement, limit = ray.get(reply)
        except RayActorError as error:
            raise ModelDiedError("the process of the model died") from error
        finally:
            self._waiting[server] -= 1
        limits = [each for each in (self.batch_limit, limit) if each is not None]
        self.batch_limit = min(limits, default=None)
        return scored

    def pin(self, buffers: Sequence[Pixels]) -> None:
        """Nothing to do: the model is in another process."""

    def close(self) -> None:
        """Nothing to do: the models are for all workers, and the driver ends them."""


class RemoteResources(Resources):
    """Decoders of this process, and models elsewhere."""

    def __init__(self, setup: Setup, servers: Sequence[Any], placement: Placement) -> None:
        super().__init__(setup.job, last=True)
        self._remote = RemoteClassifier(servers, placement)

    @property
    def planned(self) -> Placement:
        """See `Resources`."""
        return self._remote.placement

    def load(self) -> Scorer:
        """See `Resources`. The models are loaded where they are, with the first batch."""
        self.classifier = self._remote
        return self._remote
