"""What `moderate bench` measured, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from moderate.installing import how_to_install
from moderate.report.model import Fact, Facts, Report
from moderate.run.bench import Bench

_ONE_SIDED = 2.0  # times faster than the other: the slower one is where time goes
_GOOD_SHARE = 0.85


def report(bench: Bench) -> Report:
    """All numbers, and what they mean."""
    facts = Facts(tuple(Fact(label, value) for label, value in _lines(bench)), layout="whole")
    return Report("moderate: bench", (facts,), _data(bench), ascii_json=True)


def _data(bench: Bench) -> dict[str, Any]:
    """Everything measured and derived, as JSON values; rates in images per second."""
    return {
        **asdict(bench),
        "bound": bench.bound,
        "share_of_bound": bench.end_to_end / bench.bound,
        "expected": bench.expected,
        "share_of_expected": bench.share,
        "bottleneck": bottleneck(bench),
        "advice": list(advice(bench)),
    }


def _lines(bench: Bench) -> Iterator[tuple[str, str]]:
    """Label and value of every line that a person reads."""
    formats = ", ".join(f"{count} {name}" for name, count in bench.formats.items())
    errors = f", {bench.errors} of them errors" if bench.errors else ""
    yield "images", f"{bench.images} ({formats}; {bench.megapixels:.1f} megapixels each){errors}"
    yield "weights", bench.weights
    device = bench.device_name if bench.devices > 1 else bench.device
    yield "device", f"{device}, {bench.precision}, {bench.backend}"
    yield (
        "settings",
        f"{bench.cores} cores, --workers {bench.workers}, --batch-size {bench.batch_size}",
    )
    yield "decode", f"{bench.decode:8.1f} images/s, the decoders alone"
    models = "the model alone" if bench.devices == 1 else f"the {bench.devices} models alone"
    inputs = f", {bench.inputs:.1f} inputs per image" if bench.inputs > 1 else ""
    yield "forward", f"{bench.forward:8.1f} images/s, {models}{inputs}"
    yield "together", f"{bench.end_to_end:8.1f} images/s, the whole line"
    how = "the cores do both" if bench.shared_cores else "the slower of the two"
    yield "expected", f"{bench.expected:8.1f} images/s ({how}); {_reached(bench)}"
    if bench.shared_cores:
        yield "bound", f"{bench.bound:8.1f} images/s, if neither ever had to wait for a core"
    yield "limit", bottleneck(bench)
    for sentence in advice(bench):
        yield "advice", sentence


def _reached(bench: Bench) -> str:
    return "all of it reached" if bench.share == 1 else f"{bench.share:.0%} of it reached"


def bottleneck(bench: Bench) -> str:
    """Which part sets the pace."""
    if bench.forward > _ONE_SIDED * bench.decode:
        return "decoding"
    if bench.decode > _ONE_SIDED * bench.forward:
        return "the model"
    return "decoding and the model alike"


def advice(bench: Bench) -> Iterator[str]:
    """What to change, most useful first."""
    slow = bottleneck(bench)
    if bench.workers < bench.cores:
        yield f"--workers {bench.cores}: there are more cores than decoders"
    elif bench.workers > 2 * bench.cores:
        yield f"--workers {bench.cores}: more decoders than cores only take memory"
    if slow == "decoding":
        yield (
            "a faster GPU or model would change little; more cores would, or smaller images at "
            "the source"
        )
        enough = math.ceil(bench.devices * bench.decode / bench.forward)
        if bench.devices > enough and not bench.shared_cores:
            yield f"--device: {enough} of the {bench.devices} GPUs would be enough"
    elif bench.shared_cores:
        if bench.backend == "torch":
            yield f"{how_to_install('cpu')}: OpenVINO is faster than torch on most CPUs"
        if bench.precision == "fp32":
            yield "--precision bf16, if this CPU has it and scores may move by some thousandths"
        yield "a GPU, or lighter weights"
    elif bench.batch_size < 64:
        yield f"--batch-size {2 * bench.batch_size}: a GPU is seldom full with less"
    if bench.share < _GOOD_SHARE:
        yield (
            f"{bench.share:.0%} of what is expected is little: is the machine busy with something "
            "else, or the storage slow?"
        )
