"""How fast decoding alone and the model alone can go on this machine."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reporting import cores

from moderate.decode.resize import PixelSpec


@dataclass(frozen=True)
class Limit:
    """Images per second with nothing else running, and CPU seconds per image over all cores.

    parts is how many inputs of the model an image became, on average.
    """

    images: int
    rate: float
    cpu_seconds: float
    parts: float = 1.0


def decode_limit(files: Sequence[Path], specs: tuple[PixelSpec, ...]) -> Limit:
    """One process a core, each decoding its share from memory; start-up is not counted."""
    processes = min(cores(), len(files))
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(processes + 1)
    results = context.Queue()
    children = [
        context.Process(target=_decode_share, args=(files[n::processes], specs, gate, results))
        for n in range(processes)
    ]
    for child in children:
        child.start()
    gate.wait()
    begun = time.perf_counter()
    spent = [results.get() for _ in children]
    seconds = time.perf_counter() - begun
    for child in children:
        child.join()
    cpu, parts = map(sum, zip(*spent, strict=True))
    return Limit(len(files), len(files) / seconds, cpu / len(files), parts / len(files))


def _decode_share(files: Sequence[Path], specs: Any, gate: Any, results: Any) -> None:
    from moderate.decode.image import Decoded, decode, prepare
    from moderate.types import Limits

    prepare()
    limits, parts = Limits(), 0
    loaded = [file.read_bytes() for file in files]
    gate.wait()
    begun = time.process_time()
    for data in loaded:
        decoded = decode(data, specs, limits)
        assert isinstance(decoded, Decoded), decoded
        parts += len(decoded.parts)
    results.put((time.process_time() - begun, parts))


def forward_limit(
    bundle: Path | str,
    images: int,
    *,
    batch: int = 32,
    device: str = "cpu",
    precision: str = "fp32",
    backend: str = "auto",
) -> Limit:
    """The tool's own classifier fed with one batch over and over; loading is not counted.

    Of several devices each has so many images.
    """
    from moderate.classify.bundle import load_bundle
    from moderate.classify.device import place
    from moderate.classify.replicas import open_scorer

    loaded = load_bundle(str(bundle))
    rng = np.random.default_rng(0)
    batches = tuple(
        rng.integers(0, 256, (batch, *spec.shape)).astype(spec.dtype) for spec in loaded.specs
    )
    placement = place(device, precision, backend)
    rounds = max(2, images // batch) * len(placement.replicas)
    with open_scorer(loaded, placement, batch_size=batch) as classifier:
        ahead = max(1, classifier.depth)  # as far as the engine is
        for warm in [classifier.submit(batches) for _ in range(ahead)]:
            warm.result()
        begun, cpu = time.perf_counter(), time.process_time()
        waiting = deque([classifier.submit(batches)])
        for _ in range(rounds - 1):
            waiting.append(classifier.submit(batches))
            if len(waiting) > ahead:
                waiting.popleft().result()
        for last in waiting:
            last.result()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return Limit(rounds * batch, rounds * batch / seconds, cpu / (rounds * batch))


def bundle_specs(bundle: Path | str) -> tuple[PixelSpec, ...]:
    """How a bundle's models want their pixels."""
    from moderate.classify.bundle import load_bundle

    return tuple(load_bundle(str(bundle)).specs)


def shared_bound(decode: Limit, forward: Limit) -> float:
    """Images per second at which the cores could do both, where both need the same cores.

    The model runs once for each part that the images were decoded to.
    """
    return 1 / (1 / decode.rate + decode.parts / forward.rate)


def files_of(folder: Path) -> list[Path]:
    """The files of a folder, in order."""
    return [folder / name for name in sorted(os.listdir(folder))]
