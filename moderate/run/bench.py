"""What limits a run on this machine: decoding, the model, or neither.

Three measurements on the same images with the same settings: decoders alone, the model alone, and
the whole line. Processes are started and weights loaded before any clock runs.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice

import numpy as np

from moderate.cores import available_cores
from moderate.decode.batches import Batch
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import Pixels
from moderate.errors import InputError
from moderate.fetch.fetcher import Fetcher
from moderate.run.inputs import Reader
from moderate.run.interface import Job
from moderate.run.items import Item
from moderate.run.pipeline import LocalEngine
from moderate.run.resources import NICENESS
from moderate.sources.interface import Source
from moderate.types import ImageRef, Row, Skipped, Status

_FEWEST_BATCHES = 8
_FEWEST = 64  # images in a pass: fewer are gone before the line is full


@dataclass(frozen=True, slots=True)
class Bench:
    """Medians over `repeat` passes, in images per second, and what they were measured with.

    bound is what no arrangement of the same work could exceed. expected is what a good one reaches:
    the bound on GPUs, which work beside the cores; on the CPU the rate at which the cores do one
    part after the other, 1 / (1 / decode + 1 / forward), which is exceeded where one part alone
    leaves cores idle. inputs is how many inputs of the model an image becomes on average: more than
    one for animations, and for pictures whose shape hides a part from the model. forward counts
    images of so many inputs. device is the first of `devices`; device_name names them all.
    """

    images: int
    formats: dict[str, int]
    megapixels: float
    errors: int
    repeat: int
    cores: int
    workers: int
    batch_size: int
    weights: str
    device: str
    precision: str
    backend: str
    decode: float
    forward: float
    end_to_end: float
    device_name: str = ""
    devices: int = 1
    inputs: float = 1.0

    @property
    def shared_cores(self) -> bool:
        """Whether decoders and model run on the same cores."""
        return self.device == "cpu"

    @property
    def bound(self) -> float:
        """Images per second; see the class.

        Neither part is slower than the line that both are parts of: where it was measured to be,
        the machine had something else to do at that time.
        """
        return max(min(self.decode, self.forward), self.end_to_end)

    @property
    def expected(self) -> float:
        """Images per second; see the class."""
        if self.shared_cores:
            return 1 / (1 / self.decode + 1 / self.forward)
        return self.bound

    @property
    def share(self) -> float:
        """How much of what is expected the whole line reaches, 1.0 at most."""
        return min(self.end_to_end / self.expected, 1.0)


class _Gated(Source):
    """References that come out once the gate is open."""

    def __init__(self, refs: Sequence[ImageRef], gate: threading.Event) -> None:
        self._refs = refs
        self._gate = gate

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        self._gate.wait()
        yield from self._refs


def measure(job: Job, images: int, repeat: int) -> Iterator[str | Bench]:
    """Measure `job` on up to `images` of its inputs, repeated where there are few.

    Yields a line on what is being measured before each pass, and the result at the end. Raises
    InputError where there is no image, and what engines raise.
    """
    job = replace(job, second=())  # how many images get one depends on what they show
    found = (ref for ref in chain.from_iterable(job.sources) if isinstance(ref, ImageRef))
    refs = list(islice(found, images))
    if not refs:
        raise InputError("bench: no image found")
    refs = list(islice(cycle(refs), max(len(refs), min(images, _FEWEST))))
    yield f"reading {len(refs)} images once, so that every pass finds them in memory"
    rows = _end_to_end(job, refs).rows
    scored = [row for row in rows if row.status is Status.OK]
    if not scored:
        raise InputError(f"bench: none of {len(refs)} images can be decoded")
    decode, forward, whole, inputs = [], [], [], 1.0
    for number in range(1, repeat + 1):
        yield f"pass {number} of {repeat}: decoders alone"
        rate, inputs = _decode(job, refs)
        decode.append(rate)
        yield f"pass {number} of {repeat}: the whole line"
        measured = _end_to_end(job, refs)
        whole.append(measured.rate)
        forward.append(measured.forward / inputs)
    yield Bench(
        images=len(refs),
        formats=dict(Counter(row.facts.format or "?" for row in rows).most_common()),
        megapixels=statistics.mean(
            (row.facts.width or 0) * (row.facts.height or 0) / 1e6 for row in scored
        ),
        errors=len(rows) - len(scored),
        repeat=repeat,
        cores=available_cores(),
        workers=job.workers,
        batch_size=job.options.batch_size,
        weights=job.bundle.name,
        device=measured.device,
        precision=measured.precision,
        backend=measured.backend,
        decode=statistics.median(decode),
        forward=statistics.median(forward),
        end_to_end=statistics.median(whole),
        device_name=measured.device_name,
        devices=measured.devices,
        inputs=inputs,
    )


def _gated(job: Job, refs: Sequence[ImageRef], gate: threading.Event) -> Job:
    """The job on these images, copies included, whose bytes come once the gate is open."""
    return replace(
        job,
        sources=[_Gated(refs, gate)],
        options=replace(job.options, limit=None),
        deduplicate=False,
    )


def _decode(job: Job, refs: Sequence[ImageRef]) -> tuple[float, float]:
    """Images per second of the decoders alone, and inputs of the model per decoded image."""
    gate = threading.Event()
    gated = _gated(job, refs, gate)
    with (
        DecoderPool[Item](
            job.specs,
            job.options.limits,
            job.workers,
            job.options.batch_size,
            options=job.decode_options,
            niceness=NICENESS,
            at_once=True,
            images_per_decoder=job.options.images_per_decoder,
        ) as pool,
        Fetcher(job.options.limits, job.options.http) as fetcher,
    ):
        reader = Reader(gated, fetcher)
        reader.begin(None)
        batches = pool.run(reader.images())
        pool.wait_until_ready()
        begun = time.perf_counter()
        gate.set()
        decoded = further = 0
        for batch in batches:
            if isinstance(batch, Batch):
                decoded += batch.decoded
                further += batch.further_parts
            pool.release(batch)
        return len(refs) / (time.perf_counter() - begun), 1 + further / max(1, decoded)


@dataclass(frozen=True, slots=True)
class _Measured:
    rows: list[Row]
    rate: float
    forward: float  # inputs per second
    device: str
    device_name: str
    devices: int
    precision: str
    backend: str


def _end_to_end(job: Job, refs: Sequence[ImageRef]) -> _Measured:
    gate = threading.Event()
    gated = _gated(job, refs, gate)
    with LocalEngine(gated, at_once=True) as engine:
        try:
            forward = _forward(engine, job, len(refs))
            begun = time.perf_counter()
        finally:
            gate.set()
        with closing(engine.rows()) as items:  # type: ignore[type-var]
            rows = [item for item in items if isinstance(item, Row)]
        seconds = time.perf_counter() - begun
        placement = engine.placement
    return _Measured(
        rows=rows,
        rate=len(rows) / seconds,
        forward=forward,
        device=placement.device,
        device_name=placement.shown,
        devices=len(placement.replicas),
        precision=placement.precision,
        backend=placement.backend,
    )


def _forward(engine: LocalEngine, job: Job, images: int) -> float:
    """The model alone, on noise in memory: about as many images as the line is to be given."""
    noise = np.random.default_rng(0)
    batch: tuple[Pixels, ...] = tuple(
        noise.integers(0, 256, (job.options.batch_size, *spec.shape), np.uint8).astype(spec.dtype)
        for spec in job.specs
    )
    fewest = _FEWEST_BATCHES * len(engine.placement.replicas)
    return engine.forward_rate(batch, max(fewest, -(-images // job.options.batch_size)))
