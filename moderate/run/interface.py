"""The interface of engines, and the job that one runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from moderate.classify.backends import ir_cache
from moderate.classify.bundle import Bundle
from moderate.classify.device import Placement
from moderate.cores import available_cores
from moderate.decode.embedded import PICTURES, VIDEOS
from moderate.decode.parts import DecodeOptions
from moderate.decode.resize import PixelSpec
from moderate.errors import UsageError
from moderate.policy.judge import Judge
from moderate.policy.load import LoadedPolicy
from moderate.policy.second_opinion import SecondOpinion
from moderate.results.interface import ResultWriter
from moderate.run.hash_columns import hash_columns, with_hash_columns
from moderate.run.opinion_columns import SECOND_ERROR, SECOND_WEIGHTS, first_score
from moderate.run.options import ScanOptions
from moderate.sources.interface import Source
from moderate.sources.subset import CONTENT, PLACE_COLUMNS, InputListing, ShardedSource
from moderate.state.scores import ScoreStore
from moderate.types import CATEGORIES, Category, Column, Row, Skipped

if TYPE_CHECKING:
    from moderate.run.opinion_counts import OpinionCounts
    from moderate.run.row_batch import RowBatch


@dataclass(frozen=True, slots=True)
class Second:
    """Weights that give second opinions, and what the policy says of them."""

    opinion: SecondOpinion
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class Job:
    """A scan whose every option was found to make sense, before any image is opened.

    It holds everything that the rows depend on. labels are the names of the own categories and
    labels whose scores rows have; written_labels are those of them that have a column in the
    results, and level_labels those that are rating levels. second are the policy's second opinions,
    in its order.
    deduplicate=False decodes copies, too (for measuring).
    """

    options: ScanOptions
    sources: Sequence[Source]
    bundle: Bundle
    policy: LoadedPolicy
    judge: Judge
    labels: tuple[str, ...] = ()
    written_labels: tuple[str, ...] = ()
    level_labels: tuple[str, ...] = ()
    deduplicate: bool = True
    converted: str | None = field(default_factory=ir_cache.cache_folder)
    """The folder that converted models are kept in, None to keep none."""
    second: tuple[Second, ...] = ()

    def of_second(self, second: Second) -> Job:
        """The same job by the weights of a second opinion alone."""
        return replace(
            self,
            bundle=second.bundle,
            labels=(),
            written_labels=(),
            level_labels=(),
            second=(),
        )

    @property
    def workers(self) -> int:
        """How many decoder processes to run."""
        return self.options.workers or available_cores()

    @property
    def hashes(self) -> bool:
        """Whether the perceptual hashes of pictures are asked for."""
        options = self.options
        return options.pdq or options.near_duplicates or self.judge.compares_hashes

    @property
    def input_columns(self) -> tuple[Column, ...]:
        """The columns of the inputs that rows carry, and those of second opinions."""
        return run_columns(self.sources, self.second)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that rows have beside those of every run and of labels.

        Raises UsageError where an input's column has the name of another one.
        """
        added = hash_columns(hashes=self.hashes, near_duplicates=self.options.near_duplicates)
        return with_hash_columns(self.input_columns, added, self.place_count)

    @property
    def place_count(self) -> int:
        """How many of the last of the inputs' columns are the place of a row of a share."""
        return len(PLACE_COLUMNS) if is_sharded(self.sources) else 0

    @property
    def specs(self) -> tuple[PixelSpec, ...]:
        """How the models want their pixels, and how exactly this job does."""
        return tuple(
            replace(s, exact=s.exact or self.options.exact_decode) for s in self.bundle.specs
        )

    @property
    def decode_options(self) -> DecodeOptions:
        """What of each file this job scores."""
        options = self.options
        return DecodeOptions(
            options.frames,
            options.views,
            options.formats,
            _seen_by(self.bundle),
            _embedded_scored(options),
            pdq=self.hashes,
        )


def _embedded_scored(options: ScanOptions) -> tuple[str, ...]:
    """The kinds of embedded content that get rows of their own."""
    if options.embedded != "score":
        return ()
    return tuple(sorted(PICTURES | VIDEOS if options.video else PICTURES))


def _seen_by(bundle: Bundle) -> tuple[tuple[int, ...], ...]:
    """For each category that is scored, the places of the models that feed it."""
    feeding = [
        tuple(
            place for place, model in enumerate(bundle.card.model) if category in dict(model.fed())
        )
        for category in bundle.card.all_categories
    ]
    return tuple(dict.fromkeys(feeding))


def run_columns(sources: Sequence[Source], second: Sequence[Second] = ()) -> tuple[Column, ...]:
    """The columns that rows have besides our own.

    Those of all sources, the first to name one before; what is kept of second opinions; then the
    places of a share's rows. Raises UsageError where a source has a column of one of these names.
    """
    found: dict[str, Column] = {}
    for source in sources:
        for column in source.columns:
            found.setdefault(column.name, column)
    sharded = is_sharded(sources)
    if not (second or sharded):
        return tuple(found.values())
    import pyarrow as pa

    opinions: dict[str, Any] = {}
    if second:
        opinions = {SECOND_WEIGHTS: pa.string(), SECOND_ERROR: pa.string()}
        opinions |= {first_score(category): pa.float32() for category in replaceable(second)}
    places: dict[str, Any] = {}
    if sharded:
        places = dict.fromkeys(PLACE_COLUMNS, pa.int64()) | {CONTENT: pa.string()}
    for names, option in ((opinions, "second_opinion"), (places, "--shard")):
        if taken := [name for name in names if name in found]:
            raise UsageError(
                f"{option}: rows get a column {taken[0]} of their own; give the manifest's another "
                f"name, as in --keep my_{taken[0]}={taken[0]}"
            )
    return (*found.values(), *(Column(name, kind) for name, kind in (opinions | places).items()))


def replaceable(second: Sequence[Second]) -> list[Category]:
    """The categories whose scores second opinions may change."""
    fed = {category for each in second for category in each.bundle.card.categories}
    return [category for category in CATEGORIES if category in fed]


def is_sharded(sources: Sequence[Source]) -> bool:
    """Whether they are a share of the inputs."""
    return any(isinstance(source, ShardedSource) for source in sources)


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

    @property
    @abstractmethod
    def input_notes(self) -> list[str]:
        """Sentences on mistakes in how the inputs were named. Known after the last row."""

    @property
    def second_opinions(self) -> Sequence[OpinionCounts]:
        """What second opinions did, in the policy's order. Known after the last row."""
        return ()

    @property
    def listing(self) -> InputListing | None:
        """All inputs as this share of them met them; None without. Known after the last row."""
        return None

    @property
    def writers(self) -> Sequence[ResultWriter]:
        """The writers of those targets that the engine brings to their end itself."""
        return ()

    @abstractmethod
    def rows(self) -> Iterator[Row | Skipped]:
        """One row for each input in input order, with what was skipped where it was met.

        Once per engine. Raises RunError where the run cannot be finished.
        """

    def batches(self) -> Iterator[Row | RowBatch | Skipped]:
        """The same, with rows that are known by columns as a batch. Instead of `rows`."""
        return self.rows()


class Executor(ABC):
    """Where jobs are run: opens the engine of each."""

    @property
    def owned(self) -> Sequence[str]:
        """The targets of rows that are written by the engine itself; see `Engine.writers`."""
        return ()

    @abstractmethod
    def open_engine(
        self, job: Job, store: ScoreStore | None, run_id: str, unfinished_since: int | None
    ) -> Engine:
        """The engine of one run. The last two are as `LocalEngine` has them."""
