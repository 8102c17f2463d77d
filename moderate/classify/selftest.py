"""Known answers of a bundle: seeded inputs scored at install and again wherever it runs.

A broken driver, a precision that does not carry, or exchanged files show as a difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moderate.decode.resize import Pixels, PixelSpec
from moderate.errors import WeightsError
from moderate.own_categories import own_names
from moderate.types import ImageError

if TYPE_CHECKING:
    from moderate.classify.bundle import Bundle
    from moderate.classify.card import SelfTest
    from moderate.classify.classifier import Classifier
    from moderate.classify.device import Placement

INPUTS = 4


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """The largest difference from the recorded scores, and how large it may be."""

    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the device and precision compute what was recorded."""
        return self.difference <= self.tolerance


def inputs(specs: Sequence[PixelSpec]) -> list[tuple[Pixels, ...]]:
    """INPUTS images of coloured squares, one array per spec, the same on every machine.

    The colours come from SHAKE-256, not from a random generator that a library may change.
    """
    return [tuple(_squares(spec, number) for spec in specs) for number in range(INPUTS)]


def scores(classifier: Classifier, specs: Sequence[PixelSpec]) -> dict[str, list[float]]:
    """Scores of `inputs` per category; categories that nothing feeds are left out.

    Own categories are those that the classifier was asked for. Raises WeightsError where the model
    fails on an input.
    """
    found: dict[str, list[float]] = {}
    own = own_names(classifier.labels)
    for scored in classifier.score_all(inputs(specs)):
        if isinstance(scored.outcome, ImageError):
            raise WeightsError(f"the self-test failed: {scored.outcome.message}")
        for category, score in scored.outcome.items():
            if score is not None:
                found.setdefault(category, []).append(score)
        named = dict(zip(classifier.labels, scored.labels, strict=True))
        for name in own:
            found.setdefault(name, []).append(named[name])
    return found


def record(folder: Path) -> None:
    """Compute the known answers of a bundle by torch, the reference, on the CPU in fp32.

    Those of an ONNX graph are computed by OpenVINO, or by onnxruntime where that is missing. They
    are added to its card. Raises WeightsError where the bundle does not load or cannot be scored.
    """
    from moderate.classify.bundle import load_bundle
    from moderate.classify.card import CARD
    from moderate.classify.classifier import Classifier
    from moderate.classify.device import place

    bundle = load_bundle(str(folder))
    backend = "torch" if "timm" in bundle.kinds else "auto"
    placement, own = place("cpu", "fp32", backend, bundle.kinds), bundle.card.own_categories
    with Classifier(bundle, placement, labels=own) as classifier:
        known = scores(classifier, bundle.specs)
    lines = [f"{category} = {values}" for category, values in known.items()]
    with (folder / CARD).open("a", encoding="utf-8") as file:
        file.write("\n[selftest.scores]\n" + "\n".join(lines) + "\n")
    load_bundle(str(folder))


def check(
    bundle: Bundle, classifier: Classifier, placement: Placement, recorded: SelfTest
) -> SelfTestResult:
    """Compute the scores again on `placement` and compare. Raises WeightsError as `scores` does.

    Own categories that the classifier does not score are left out.
    """
    now = scores(classifier, bundle.specs)
    left_out = set(bundle.card.own_categories) - set(classifier.labels)
    known = {c: values for c, values in recorded.scores.items() if c not in left_out}
    if {c: len(v) for c, v in now.items()} != {c: len(v) for c, v in known.items()}:
        raise WeightsError(f"{bundle.name}: the recorded self-test is of other categories")
    differences = [
        abs(a - b) for c, values in known.items() for a, b in zip(values, now[c], strict=True)
    ]
    difference = max(differences, default=0.0)  # none where no label feeds one of the five
    tolerance = recorded.tolerance if placement.precision == "fp32" else recorded.low_tolerance
    return SelfTestResult(difference, tolerance)


def _squares(spec: PixelSpec, number: int) -> Pixels:
    side = 2 << number  # from large squares to small ones
    colours = hashlib.shake_256(f"moderate selftest {number}".encode()).digest(side * side * 3)
    small = np.frombuffer(colours, np.uint8).reshape(side, side, 3)
    rows = np.arange(spec.height) * side // spec.height
    columns = np.arange(spec.width) * side // spec.width
    return small[rows[:, None], columns].astype(spec.dtype)
