"""TensorFlow.js layers models of Keras's MobileNetV2 (nsfwjs) to timm's mobilenetv2_100."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from moderate.classify.card import Head, Preprocess
from moderate.classify.files import read_json, shown
from moderate.errors import WeightsError
from moderate.regular import read_regular, sha256_of
from moderate.text import one_line, printable
from moderate.weights.convert.checks import checked, choose_labels, make_preprocess
from moderate.weights.convert.interface import Converted, Converter
from moderate.weights.convert.reading import TensorPool, plain_name

MODEL = "model.json"

# nsfwjs names its classes in its code; this is its MobileNetV2's model.json.
_NSFWJS = "11846416217e68bf1eb7b0e651bcfd305973566453c63275bbd16766ab089979"
_NSFWJS_LABELS = ("Drawing", "Hentai", "Neutral", "Porn", "Sexy")

# timm's stages of MobileNetV2: how many blocks each has.
_STAGES = (1, 2, 3, 4, 3, 3, 1)
_EPSILON = 1e-3

_MAX_BYTES = 2 * 1024**3
_STORED = {"uint8": "<u1", "uint16": "<u2", "float16": "<f2", "float32": "<f4"}
_LAYERS = frozenset(
    {
        "InputLayer",
        "ZeroPadding2D",
        "Conv2D",
        "BatchNormalization",
        "ReLU",
        "DepthwiseConv2D",
        "Add",
        "AveragePooling2D",
        "GlobalAveragePooling2D",
        "Flatten",
        "Dropout",
        "Dense",
    }
)
_CONTAINERS = frozenset({"Model", "Functional", "Sequential"})


@dataclass(frozen=True, slots=True)
class _Topology:
    """What the layers say beyond the tensors: side in pixels, and the dense layers in order."""

    side: int
    dense: tuple[str, ...]
    widths: tuple[int, ...]
    hidden_activation: Literal["relu", "tanh"]
    activation: Literal["softmax", "sigmoid"]


class LayersModel(Converter):
    """Keras's MobileNetV2 of width 1.0 with dense layers on top, saved for TensorFlow.js.

    The files say nothing of preprocessing; it is nsfwjs's: values / 255, bilinear straight to the
    input size, corners aligned, no antialiasing.
    """

    def recognises(self, folder: Path) -> bool:
        """By a model.json."""
        return (folder / MODEL).is_file()

    def convert(self, folder: Path, labels: Sequence[str] | None = None) -> Converted:
        """Raises WeightsError."""
        where = shown(folder / MODEL)
        model = read_json(folder / MODEL)
        topology = _read_topology(model, where)
        if labels is None and _digest(folder / MODEL) == _NSFWJS:
            labels = _NSFWJS_LABELS
        names = choose_labels(None, labels, topology.widths[-1], where)
        head = None
        if hidden := topology.widths[:-1]:
            head = Head(hidden=hidden, activation=topology.hidden_activation)
        converted = Converted(
            architecture="mobilenetv2_100",
            labels=names,
            activation=topology.activation,
            preprocess=nsfwjs_preprocess(topology.side, where),
            tensors=_renamed(
                read_manifest(
                    model, lambda names, size: _read_shards(folder, names, size, where), where
                ),
                topology.dense,
                where,
            ),
            # Keras pads as TensorFlow does, and its epsilon is not timm's; either would load
            # without an error and score wrongly.
            model_args={"pad_type": "same", "bn_eps": _EPSILON},
            head=head,
        )
        return checked(converted, shown(folder))


def nsfwjs_preprocess(side: int, where: str) -> Preprocess:
    """How nsfwjs scales images to `side` pixels a side. Raises WeightsError."""
    return make_preprocess(
        where,
        size=(side, side),
        resize="squash",
        interpolation="bilinear",
        antialias=False,
        align_corners=True,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def _digest(path: Path) -> str:
    return sha256_of(path)


def _read_topology(model: dict[str, Any], where: str) -> _Topology:
    """What the layers say. Raises WeightsError for anything but the network that is known."""
    side, pool, dense = 0, 0, []
    for kind, config in keras_layers(model, _LAYERS, where):
        if kind == "InputLayer":
            shape = config.get("batch_input_shape", config.get("batch_shape"))
            if not isinstance(shape, list) or len(shape) != 4 or shape[3] != 3:
                raise WeightsError(f"{where}: the input is no picture of H x W x 3")
            if not isinstance(shape[1], int) or shape[1] != shape[2] or side not in (0, shape[1]):
                raise WeightsError(f"{where}: the input must be square and of one size")
            side = shape[1]
        elif kind == "BatchNormalization" and config.get("epsilon") != _EPSILON:
            raise WeightsError(f"{where}: a BatchNormalization's epsilon is not {_EPSILON}")
        elif kind == "ReLU" and config.get("max_value") != 6:
            raise WeightsError(f"{where}: a ReLU does not end at 6")
        elif kind == "AveragePooling2D":
            size = config.get("pool_size")
            if not isinstance(size, list) or len(size) != 2 or size[0] != size[1]:
                raise WeightsError(f"{where}: the pooling must be square")
            pool = size[0]
        elif kind == "Dense":
            dense.append((config.get("name"), config.get("units"), config.get("activation")))
    if side % 32 or not 32 <= side <= 1024:
        raise WeightsError(f"{where}: an input of {side} pixels is not supported")
    if pool not in (0, side // 32):
        raise WeightsError(f"{where}: the pooling does not take in the whole picture")
    return _dense_layers(side, dense, where)


def _dense_layers(side: int, dense: list[tuple[Any, Any, Any]], where: str) -> _Topology:
    if not 1 <= len(dense) <= 8:
        raise WeightsError(f"{where}: {len(dense)} dense layers; 1 to 8 are supported")
    for name, units, _ in dense:
        if not isinstance(name, str) or not isinstance(units, int) or not 1 <= units <= 65536:
            raise WeightsError(f"{where}: a dense layer has no name or no units")
    hidden = {activation for *_, activation in dense[:-1]} or {"relu"}
    last = dense[-1][2]
    if len(hidden) > 1 or not hidden <= {"relu", "tanh"} or last not in ("softmax", "sigmoid"):
        raise WeightsError(
            f"{where}: dense layers must be relu or tanh, and softmax or sigmoid at the end, not "
            f"{one_line(', '.join(str(activation) for *_, activation in dense), 80)}"
        )
    return _Topology(
        side=side,
        dense=tuple(name for name, *_ in dense),
        widths=tuple(units for _, units, _ in dense),
        hidden_activation="tanh" if hidden == {"tanh"} else "relu",
        activation="sigmoid" if last == "sigmoid" else "softmax",
    )


def keras_layers(
    model: dict[str, Any], known: frozenset[str], where: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class name and config of every layer of a TensorFlow.js model, in order.

    Raises WeightsError for a layer that is not of the `known` classes.
    """
    topology = model.get("modelTopology")
    if not isinstance(topology, dict) or model.get("format", "layers-model") != "layers-model":
        raise WeightsError(f"{where}: no TensorFlow.js layers model")
    yield from _layers(topology.get("model_config", topology), known, where)


def _layers(
    node: object, known: frozenset[str], where: str, depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of nested models are among them."""
    kind = node.get("class_name") if isinstance(node, dict) else None
    config = node.get("config") if isinstance(node, dict) else None
    if kind in _CONTAINERS and depth < 8:
        inner = config.get("layers") if isinstance(config, dict) else config
        if not isinstance(inner, list):
            raise WeightsError(f"{where}: a {kind} without layers")
        for layer in inner:
            yield from _layers(layer, known, where, depth + 1)
    elif isinstance(kind, str) and kind in known and isinstance(config, dict):
        yield str(kind), config
    else:
        raise WeightsError(f"{where}: the layer {one_line(repr(kind), 60)} is not supported")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of the manifest; its values lie at `offset` bytes into its group's data."""

    name: str
    shape: tuple[int, ...]
    stored: str
    scale: float
    minimum: float
    offset: int
    count: int


def read_manifest(
    model: dict[str, Any], read: Callable[[list[object], int], bytes], where: str
) -> dict[str, NDArray[np.float32]]:
    """The tensors of a TensorFlow.js model by name, dequantised. Raises WeightsError.

    read gives the bytes of a group's files by their names. It is told how many bytes the manifest
    claims, so that it can hold the files' lengths against that before anything is read.
    """
    groups = model.get("weightsManifest")
    if not isinstance(groups, list) or not groups:
        raise WeightsError(f"{where}: no weightsManifest")
    tensors: dict[str, NDArray[np.float32]] = {}
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("paths"), list):
            raise WeightsError(f"{where}: a group of weights names no files")
        entries, claimed = _entries(group.get("weights"), where)
        data = read(group["paths"], claimed)
        check_length(len(data), claimed, where)
        for entry in entries:
            if entry.name in tensors:
                raise WeightsError(f"{where}: tensor {printable(entry.name)} stands twice")
            values = np.frombuffer(data, entry.stored, entry.count, entry.offset)
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused later
                exact = values.astype(np.float64) * entry.scale + entry.minimum
                tensors[entry.name] = exact.astype(np.float32).reshape(entry.shape)
    return tensors


def check_length(length: int, claimed: int, where: str) -> None:
    """Raises WeightsError where the files are not as long as the manifest says."""
    if length != claimed or length > _MAX_BYTES:
        raise WeightsError(
            f"{where}: the manifest speaks of {claimed} bytes of weights, the files hold {length}"
        )


def _read_shards(folder: Path, names: list[object], claimed: int, where: str) -> bytes:
    paths = [folder / plain_name(name, where) for name in names]
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"{shown(path)}: no such file")
    try:
        check_length(sum(path.stat().st_size for path in paths), claimed, where)
        return b"".join(read_regular(path, claimed) for path in paths)
    except OSError as error:
        raise WeightsError(f"{shown(folder)}: {error.strerror}") from error


def _entries(weights: object, where: str) -> tuple[list[_Entry], int]:
    """A group's tensors and the bytes they take."""
    if not isinstance(weights, list):
        raise WeightsError(f"{where}: a group of weights lists no tensors")
    entries: list[_Entry] = []
    offset = 0
    for weight in weights:
        name, shape = (
            (weight.get("name"), weight.get("shape")) if isinstance(weight, dict) else ("", None)
        )
        if (
            not isinstance(name, str)
            or not isinstance(shape, list)
            or len(shape) > 4
            or not all(type(side) is int and 0 <= side < 2**31 for side in shape)
        ):
            raise WeightsError(f"{where}: a tensor without name or shape")
        quantised = weight.get("quantization")
        stored, scale, minimum = weight.get("dtype"), 1.0, 0.0
        if stored != "float32":
            raise WeightsError(f"{where}: tensor {printable(name)} is not of type float32")
        if quantised is not None:
            stored, scale, minimum = _quantisation(quantised, name, where)
        count = math.prod(shape)
        entries.append(_Entry(name, tuple(shape), _STORED[stored], scale, minimum, offset, count))
        offset += count * np.dtype(_STORED[stored]).itemsize
    return entries, offset


def _quantisation(stated: object, name: str, where: str) -> tuple[str, float, float]:
    """Stored type, scale and minimum: value = stored * scale + minimum."""
    if isinstance(stated, dict):
        kind = stated.get("dtype")
        if kind == "float16":
            return "float16", 1.0, 0.0
        numbers = (stated.get("scale"), stated.get("min"))
        if kind in ("uint8", "uint16") and all(type(number) in (int, float) for number in numbers):
            scale, minimum = float(stated["scale"]), float(stated["min"])
            if math.isfinite(scale) and math.isfinite(minimum):
                return kind, scale, minimum
    raise WeightsError(f"{where}: tensor {printable(name)} is quantised in an unknown way")


def _renamed(
    arrays: dict[str, NDArray[np.float32]], dense: tuple[str, ...], where: str
) -> dict[str, torch.Tensor]:
    """Keras's names and layouts to timm's, several dense layers as an MLP head."""
    pool = TensorPool({name: torch.from_numpy(array) for name, array in arrays.items()}, where)
    tensors: dict[str, torch.Tensor] = {}
    prefix = "backbone." if len(dense) > 1 else ""

    def convolution(source: str, target: str) -> None:
        kernel = pool.take(f"{source}/kernel", 4)
        tensors[f"{prefix}{target}.weight"] = kernel.permute(3, 2, 0, 1)

    def depthwise(source: str, target: str) -> None:
        kernel = pool.take(f"{source}/depthwise_kernel", 4)
        tensors[f"{prefix}{target}.weight"] = kernel.permute(2, 3, 0, 1)

    def norm(source: str, target: str) -> None:
        for ours, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            tensors[f"{prefix}{target}.{ours}"] = pool.take(f"{source}/{theirs}")

    convolution("Conv1", "conv_stem")
    norm("bn_Conv1", "bn1")
    depthwise("expanded_conv_depthwise", "blocks.0.0.conv_dw")
    norm("expanded_conv_depthwise_BN", "blocks.0.0.bn1")
    convolution("expanded_conv_project", "blocks.0.0.conv_pw")
    norm("expanded_conv_project_BN", "blocks.0.0.bn2")
    number = 1
    for stage, blocks in enumerate(_STAGES[1:], start=1):
        for block in range(blocks):
            source, target = f"block_{number}", f"blocks.{stage}.{block}"
            convolution(f"{source}_expand", f"{target}.conv_pw")
            norm(f"{source}_expand_BN", f"{target}.bn1")
            depthwise(f"{source}_depthwise", f"{target}.conv_dw")
            norm(f"{source}_depthwise_BN", f"{target}.bn2")
            convolution(f"{source}_project", f"{target}.conv_pwl")
            norm(f"{source}_project_BN", f"{target}.bn3")
            number += 1
    convolution("Conv_1", "conv_head")
    norm("Conv_1_bn", "bn2")
    for index, name in enumerate(dense):
        target = f"head.{2 * index}" if prefix else "classifier"
        tensors[f"{target}.weight"] = pool.take(f"{name}/kernel", 2).T
        tensors[f"{target}.bias"] = pool.take(f"{name}/bias")
    pool.finish()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
