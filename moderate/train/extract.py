"""Images to features: read again, decoded in sandboxed processes, run through the network once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moderate.classify.bundle import ModelFiles
from moderate.classify.device import Placement
from moderate.classify.features import FeatureModel, Features
from moderate.cores import available_cores
from moderate.decode.batches import Batch
from moderate.decode.parts import DecodeOptions
from moderate.decode.pool import DecoderPool
from moderate.decode.sniff import OPTIONAL
from moderate.decode.undecoded import Undecoded
from moderate.decode.version import PILLOW, PIXELS_VERSION, resampler
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.options import HttpOptions
from moderate.sources.originals import OriginalError, Originals
from moderate.train.cache import feature_cache
from moderate.train.inputs import Labelled
from moderate.types import ErrorCode, ImageFacts, Limits

NICENESS = 5
"""Of the decoders: the network, which is slower, goes first."""

_BATCH = 32
_NOT_READ = "not readable"
_NOT_FINITE = ErrorCode.NON_FINITE_SCORE.value

Progress = Callable[[int, int], None]
"""Called with how many images have their features, and how many there are."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """The images that have features, N x F in their order, and how many were extracted anew."""

    labelled: Labelled
    features: Features
    extracted: int


def extract(
    labelled: Labelled,
    files: ModelFiles,
    model: FeatureModel,
    placement: Placement,
    limits: Limits,
    http: HttpOptions,
    progress: Progress = lambda done, whole: None,
) -> Extracted:
    """The features of images by one model of a bundle.

    An image is seen as the model is made to see it: its first frame, as a whole. What is kept of an
    earlier training is used. Images that cannot be read or decoded are left out and counted.
    """
    reasons: Counter[str] = Counter()
    with feature_cache(_scope(files, placement)) as cache:
        found = cache.find(labelled.digests)
        missing = [place for place, each in enumerate(labelled.digests) if each not in found]
        progress(len(found), len(labelled))
        if missing:
            spec = files.card.preprocess.pixel_spec()
            options = DecodeOptions("first", "1", formats=tuple(sorted(OPTIONAL)))
            with (
                Fetcher(limits, http) as fetcher,
                DecoderPool[int](
                    (spec,),
                    limits,
                    available_cores(),
                    _BATCH,
                    options=options,
                    niceness=NICENESS,
                ) as pool,
            ):
                originals = Originals(limits, fetcher)

                def images() -> Iterator[tuple[int, bytes | None]]:
                    for place in missing:
                        try:
                            yield place, originals.read(labelled.rows[place])
                        except OriginalError as error:
                            reasons[error.code.value if error.code else error.problem.value] += 1
                        except Exception:  # noqa: BLE001 - one image must not end the training
                            reasons[_NOT_READ] += 1

                for result in pool.run(images()):
                    if isinstance(result, Batch):
                        fresh = _of_batch(result, labelled, model, reasons)
                        cache.keep(fresh)
                        found |= fresh
                        progress(len(found), len(labelled))
                    pool.release(result)
    there = np.array([digest in found for digest in labelled.digests], np.bool_)
    kept = labelled.take(there, reasons)
    features = [found[digest] for digest in kept.digests]
    stacked = np.stack(features) if features else np.zeros((0, 1), np.float32)
    return Extracted(kept, stacked, len(missing) - int((~there).sum()))


def _of_batch(
    batch: Batch[int], labelled: Labelled, model: FeatureModel, reasons: Counter[str]
) -> dict[str, Features]:
    decoded = [entry.item for entry in batch.entries if isinstance(entry.outcome, ImageFacts)]
    for entry in batch.entries:
        if isinstance(entry.outcome, Undecoded):
            reasons[entry.outcome.code.value] += 1
    if not decoded:
        return {}
    found = model.features(batch.pixels()[0][: len(decoded)])
    finite = [bool(np.isfinite(values).all()) for values in found]
    if broken := finite.count(False):
        reasons[_NOT_FINITE] += broken
    return {
        labelled.digests[place]: values
        for place, values, good in zip(decoded, found, finite, strict=True)
        if good
    }


def _scope(files: ModelFiles, placement: Placement) -> bytes:
    """A digest of what features depend on besides the content."""
    card = files.card
    facts = {
        "sha256": card.sha256,
        "model_args": card.model_args,
        "head": card.head is not None,
        "preprocess": card.preprocess.model_dump(mode="json"),
        "pixels": [PIXELS_VERSION, PILLOW, resampler()],
        "device": [placement.device.partition(":")[0], placement.precision],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
