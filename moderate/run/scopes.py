"""What scores and decoding errors depend on besides the bytes of the image."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version

from moderate.classify.device import Placement
from moderate.decode.version import PIXELS_VERSION, resampler
from moderate.run.interface import Job
from moderate.state.known_files import Scopes


def scopes(job: Job, placement: Placement) -> Scopes:
    """The scopes under which a job's outcomes are kept.

    Scores: weights and calibration, preprocessing, what resizes, kind of device, precision,
    backend, and which labels' scores are kept beside them. Errors: the
    decoding libraries and their limits. Versions of torch and its like are not among them: they
    move scores by less than the tolerance of every other comparison.
    """
    pixels = {
        "pixels": PIXELS_VERSION,
        "specs": [asdict(spec) for spec in job.specs],
        **asdict(job.decode_options),
    }
    del pixels["pdq"]  # scores are the same with a hash or without
    scores = {
        **pixels,
        "resampler": resampler(),
        "weights": job.bundle.sha256,
        "device": placement.device.partition(":")[0],
        "precision": placement.precision,
        "backend": placement.backend,
        # What was scored without labels does not have them. Without any, the scope is as ever.
        **({"labels": list(job.labels)} if job.labels else {}),
    }
    errors = {
        **pixels,
        "libraries": [version(name) for name in ("pillow", "pillow-heif")],
        "max_pixels": job.options.limits.max_pixels,
        "video": job.options.video is not None,
    }
    return Scopes(_digest(scores), _digest(errors))


def _digest(values: dict[str, object]) -> bytes:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
