"""An ONNX graph on its way into a bundle: kept as it is, and tried out before it is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from moderate.classify import selftest
from moderate.classify.backends.interface import Logits
from moderate.classify.bundle import Bundle
from moderate.classify.card import GRAPH, Colours, GraphInput, Layout, Preprocess
from moderate.classify.device import place
from moderate.classify.files import shown
from moderate.classify.labels import LabelModel, activate
from moderate.classify.onnx_graph import check_labels, check_size, inspect, read_bytes
from moderate.decode.resize import Pixels
from moderate.errors import UsageError, WeightsError
from moderate.text import printable
from moderate.validation import first_problem
from moderate.weights.pixels import PixelOptions

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
    """What `weights add model.onnx` was told of the graph; None for what was left out."""

    layout: Layout | None = None
    colours: Colours | None = None
    pixels: PixelOptions = field(default_factory=PixelOptions)

    def named(self) -> list[str]:
        """Those that only graphs have, by their names on the command line."""
        values = {"--layout": self.layout, "--colours": self.colours}
        return [name for name, value in values.items() if value is not None]


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
    pixels = options.pixels
    missing = []
    if facts.layout is None:
        missing.append("--layout nchw or nhwc, how its input is laid out")
    if labels is None:
        missing.append("--labels, its outputs in order, separated by commas")
    if activation is None:
        ends = {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(facts.last_operator)
        hint = f" (it ends with a {ends}, so that none is likely)" if ends else ""
        missing.append(
            "--activation softmax, sigmoid or none, what makes probabilities of its outputs" + hint
        )
    if pixels.mean is None or pixels.std is None:
        missing.append(
            "--mean and --std, how its pixels are normalised; they apply to values of 0 to 1 "
            "(--mean 0 --std 1/255 for a graph that takes 0 to 255)"
        )
    if missing or facts.layout is None or labels is None or activation is None:
        raise UsageError(
            f"{where} is an ONNX graph, which does not say all: add {'; '.join(missing)}"
        )
    if size := pixels.sides():
        check_size(facts, size, where)
    check_labels(facts.classes, len(labels), where)
    defaults = {
        "size": (facts.height, facts.width),
        "resize": "squash",
        "interpolation": "bilinear",
    }
    onnx = {"labels": labels, "layout": facts.layout, "colours": options.colours or "rgb"}
    return _model(where, data, onnx, activation, {**defaults, **pixels.values()})


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
