"""An ONNX graph on its way into a bundle: kept as it is, and tried out before it is installed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from moderate.classify import selftest
from moderate.classify.backends.interface import Logits
from moderate.classify.bundle import GRAPH, Bundle, Colours, GraphInput, Layout, Preprocess
from moderate.classify.device import place
from moderate.classify.files import shown
from moderate.classify.labels import LabelModel, activate
from moderate.classify.onnx_graph import check_labels, check_size, inspect, read_bytes
from moderate.decode.resize import Pixels
from moderate.errors import UsageError, WeightsError
from moderate.text import printable
from moderate.validation import first_problem

GraphActivation = Literal["softmax", "sigmoid", "none"]

_BATCH = 4  # images at once, while a graph is tried out
_INDEPENDENT = 1e-5  # of a probability


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A graph and all that a bundle says of it, but for its categories."""

    data: bytes
    onnx: GraphInput
    activation: GraphActivation
    preprocess: Preprocess

    @property
    def labels(self) -> tuple[str, ...]:
        """In output order."""
        return self.onnx.labels

    def write(self, folder: Path) -> None:
        """Write the graph's file. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / GRAPH).write_bytes(self.data)

    def table(self) -> dict[str, Any]:
        """Its part of a card."""
        return {
            "activation": self.activation,
            "sha256": {GRAPH: hashlib.sha256(self.data).hexdigest()},
            "onnx": self.onnx.model_dump(mode="json"),
            "preprocess": self.preprocess.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """What `weights add model.onnx` was told of the graph, as texts; None for what was left out."""

    layout: Layout | None = None
    colours: Colours | None = None
    size: str | None = None
    resize: Literal["squash", "crop"] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None

    def given(self) -> list[str]:
        """The options that were given, by their names on the command line."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return [f"--{name.replace('_', '-')}" for name, v in values.items() if v is not None]


def read_model(
    path: Path,
    labels: Sequence[str] | None,
    activation: GraphActivation | None,
    options: GraphOptions,
) -> OnnxModel:
    """The graph in a file with what its owner says of it. Raises WeightsError and UsageError."""
    where = shown(path)
    data = read_bytes(path)
    facts = inspect(data, where, options.layout)
    if facts.layout is None:
        raise UsageError(f"{where}: say with --layout nchw or nhwc how its input is laid out")
    if labels is None:
        raise UsageError(f"{where}: name its outputs in order with --labels, separated by commas")
    if activation is None:
        ends = {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(facts.last_operator)
        hint = f"; it ends with a {ends}, so that none is likely" if ends else ""
        raise UsageError(
            f"{where}: say with --activation what makes probabilities of its outputs: "
            f"softmax, sigmoid or none{hint}"
        )
    if options.mean is None or options.std is None:
        raise UsageError(
            f"{where}: say with --mean and --std how its pixels are normalised; they apply to "
            "values of 0 to 1 (--mean 0 --std 1/255 for a graph that takes 0 to 255)"
        )
    if options.size is not None:
        check_size(facts, _size(options.size), where)
    check_labels(facts.classes, len(labels), where)
    fields = {
        "size": (facts.height, facts.width),
        "resize": options.resize or "squash",
        "crop_pct": 1.0 if options.crop_pct is None else options.crop_pct,
        "interpolation": options.interpolation or "bilinear",
        "mean": _three("--mean", options.mean),
        "std": _three("--std", options.std),
    }
    onnx = {"labels": labels, "layout": facts.layout, "colours": options.colours or "rgb"}
    return _model(where, data, onnx, activation, fields)


def known_model(
    path: Path,
    labels: Sequence[str],
    layout: Layout,
    colours: Colours,
    activation: GraphActivation,
    preprocess: Mapping[str, Any],
) -> OnnxModel:
    """A graph that the catalogue knows. Raises WeightsError where it is another one."""
    where = shown(path)
    data = read_bytes(path)
    facts = inspect(data, where, layout)
    check_labels(facts.classes, len(labels), where)
    onnx = {"labels": labels, "layout": layout, "colours": colours}
    model = _model(where, data, onnx, activation, preprocess)
    check_size(facts, model.preprocess.size, where)
    return model


def try_graphs(bundle: Bundle) -> None:
    """Run the graphs of a bundle that is about to be installed.

    Raises WeightsError where one gives another number of outputs than there are labels, outputs
    that the activation does not fit, or scores that depend on the other images of a batch.
    """
    placement = place("cpu", "fp32", "auto", bundle.kinds)
    for files in bundle.models:
        if files.kind != "onnx":
            continue
        where = shown(Path(files.folder) / GRAPH)
        model = LabelModel(files, placement, batch_size=_BATCH)
        try:
            spec = files.card.preprocess.pixel_spec()
            pixels: Pixels = np.stack([image for (image,) in selftest.inputs((spec,))])  # type: ignore[assignment]
            outputs = model.backend.start(pixels)()
            if outputs.shape != (len(pixels), len(files.labels)):
                raise WeightsError(
                    f"{where}: it gives {' x '.join(map(str, outputs.shape))} numbers for "
                    f"{len(pixels)} images, but {len(files.labels)} labels are named"
                )
            _check_activation(outputs, files.card.activation, where)
            expected = activate(outputs, files.card.activation)
            turned = model.probabilities(pixels[::-1])[::-1]
            alone = np.concatenate([model.probabilities(image[None]) for image in pixels])
            difference = max(float(np.abs(other - expected).max()) for other in (turned, alone))
        except WeightsError:
            raise
        except Exception as error:
            # Whatever a runtime makes of a graph.
            raise WeightsError(
                f"{where}: it fails on a batch of {_BATCH} images "
                f"({printable(str(error))[:200]}): export it with a batch of one"
            ) from error
        finally:
            model.backend.close()
        if not difference <= _INDEPENDENT:
            raise WeightsError(
                f"{where}: an image's scores change by {difference:.1e} with the other images of "
                "its batch: export it with a batch of one"
            )


def _check_activation(outputs: Logits, activation: str, where: str) -> None:
    if not np.isfinite(outputs).all():
        raise WeightsError(f"{where}: it gives NaN or infinity for the self-test's images")
    in_range = bool((outputs >= -1e-6).all() and (outputs <= 1 + 1e-6).all())
    sums_to_one = bool(np.abs(outputs.sum(axis=1) - 1).max() < 1e-4)
    if activation == "none" and not in_range:
        raise WeightsError(
            f"{where}: it gives values of {outputs.min():.3g} to {outputs.max():.3g}, which are "
            "not probabilities: use --activation softmax or sigmoid"
        )
    if activation != "none" and in_range and sums_to_one and outputs.shape[1] > 1:
        raise WeightsError(f"{where}: its outputs are probabilities already: use --activation none")


def _model(
    where: str,
    data: bytes,
    onnx: Mapping[str, Any],
    activation: GraphActivation,
    preprocess: Mapping[str, Any],
) -> OnnxModel:
    try:
        return OnnxModel(
            data,
            GraphInput.model_validate(onnx),
            activation,
            Preprocess.model_validate(preprocess),
        )
    except ValidationError as error:
        raise WeightsError(f"{where}: {first_problem(error)}") from error


def _size(text: str) -> tuple[int, int]:
    """Height and width of `224` or `224x320`. Raises UsageError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise UsageError(f"--size {printable(text)!r}: use N, or HEIGHTxWIDTH")
    return int(sides[0]), int(sides[-1])


def _three(option: str, text: str) -> tuple[float, float, float]:
    """Three numbers, or one for all three; `123/255` is a number. Raises UsageError."""
    parts = text.split(",")
    if len(parts) not in (1, 3):
        raise UsageError(f"{option} {printable(text)!r}: use one number or three (R,G,B)")
    numbers = [_number(option, part) for part in parts]
    return (numbers[0], numbers[len(parts) // 2], numbers[-1])


def _number(option: str, text: str) -> float:
    above, _, below = text.partition("/")
    try:
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{option}: {printable(text)!r} is not a number like 0.485 or 123/255")
    return number
