"""What every engine promises, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from moderate.classify.backends import ir_cache
from moderate.classify.bundle import Bundle
from moderate.classify.device import Placement
from moderate.decode.limits import IMAGES_PER_DECODER
from moderate.decode.resize import PixelSpec
from moderate.decode.video import VideoOptions
from moderate.fetch.options import HttpOptions
from moderate.policy.judge import Judge
from moderate.sources.interface import Source
from moderate.types import Column, Limits, Row, Skipped


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run's rows depend on.

    batch_size, workers and images_per_decoder change speed alone.

    rescore has everything scored anew, retry_errors what was an error; verify has every file read,
    and scored where its content is new; deduplicate=False decodes copies, too (for measuring).
    video is None where videos are refused. max_rows counts a video once, with all its rows. labels
    are the names of the labels whose scores rows have.
    """

    sources: Sequence[Source]
    bundle: Bundle
    judge: Judge
    limits: Limits = field(default_factory=Limits)
    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    compile: bool = False
    require_sandbox: bool = False
    exact_decode: bool = False
    http: HttpOptions = field(default_factory=HttpOptions)
    batch_size: int = 32
    workers: int = 1
    images_per_decoder: int = IMAGES_PER_DECODER
    max_rows: int | None = None
    rescore: bool = False
    retry_errors: bool = False
    verify: bool = False
    deduplicate: bool = True
    video: VideoOptions | None = None
    labels: tuple[str, ...] = ()
    converted: str | None = field(default_factory=ir_cache.cache_folder)
    """The folder that converted models are kept in, None to keep none."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that rows carry."""
        return carried_columns(self.sources)

    @property
    def specs(self) -> tuple[PixelSpec, ...]:
        """How the models want their pixels, and how exactly this job does."""
        return tuple(replace(s, exact=s.exact or self.exact_decode) for s in self.bundle.specs)


def carried_columns(sources: Sequence[Source]) -> tuple[Column, ...]:
    """Those of all sources, the first to name one before."""
    found: dict[str, Column] = {}
    for source in sources:
        for column in source.columns:
            found.setdefault(column.name, column)
    return tuple(found.values())


class Engine(ABC):
    """Runs one job; a context manager that holds its processes and device.

    Entering raises DeviceError or WeightsError where the job cannot run on this machine.
    """

    @abstractmethod
    def __enter__(self) -> Self:
        """Start what the job needs and find its device."""

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """End every process that was started."""

    @property
    @abstractmethod
    def placement(self) -> Placement:
        """The device and precision in use, or to be used once there is something to score."""

    @property
    @abstractmethod
    def sandbox(self) -> tuple[str, ...] | None:
        """The protections that decoders ran under; see `moderate.decode.sandbox`.

        Those of earlier runs where this one had nothing to decode; None where no run had. Known
        after the last row.
        """

    @property
    @abstractmethod
    def startup_seconds(self) -> float:
        """How long starting took, the loading of the model included. Known after the last row."""

    @property
    @abstractmethod
    def limited(self) -> bool:
        """Whether the rows end at the job's max_rows. Known after the last one."""

    @property
    @abstractmethod
    def batch_limit(self) -> int | None:
        """Images per forward pass that memory allowed; None where the job's batches fitted."""

    @abstractmethod
    def rows(self) -> Iterator[Row | Skipped]:
        """One row for each input in input order, with what was skipped where it was met.

        Once per engine. Raises RunError where the run cannot be finished.
        """
