"""nsfwjs's InceptionV3 as its npm package ships it, to our architecture of the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.conv_bn_act import ConvNormAct
from torch import nn

from moderate.classify.architectures import NSFWJS_INCEPTION
from moderate.classify.card import Head
from moderate.classify.files import shown
from moderate.classify.model import build_model
from moderate.errors import WeightsError
from moderate.weights.convert.checks import checked, choose_labels
from moderate.weights.convert.interface import Converted
from moderate.weights.convert.layers_model import keras_layers, nsfwjs_preprocess, read_manifest
from moderate.weights.convert.min_js import read_exported_bytes, read_exported_object
from moderate.weights.convert.reading import TensorPool, plain_name

MODEL = "model.min.js"
_SIDE = 299
_EPSILON = 1e-3
_HIDDEN = (256, 128)
_KINDS = frozenset(
    {
        "InputLayer",
        "Conv2D",
        "BatchNormalization",
        "Activation",
        "MaxPooling2D",
        "AveragePooling2D",
        "Concatenate",
        "Flatten",
        "Dropout",
        "Dense",
    }
)


def convert_nsfwjs_inception(folder: Path, labels: Sequence[str]) -> Converted:
    """`model.min.js` and its shards in `folder`. Raises WeightsError where the layers differ."""
    where = shown(folder / MODEL)
    model = read_exported_object(folder / MODEL)
    classes = _check_layers(model, where)
    arrays = read_manifest(
        model, lambda names, _: b"".join(_shard(folder, name, where) for name in names), where
    )
    converted = Converted(
        architecture=NSFWJS_INCEPTION,
        labels=choose_labels(None, labels, classes, where),
        activation="softmax",
        preprocess=nsfwjs_preprocess(_SIDE, where),
        tensors=_renamed(arrays, where),
        model_args={},
        head=Head(hidden=_HIDDEN),
    )
    return checked(converted, where)


def _shard(folder: Path, name: object, where: str) -> bytes:
    return read_exported_bytes(folder / f"{plain_name(name, where)}.min.js")


def _convolutions() -> list[tuple[str, ConvNormAct]]:
    """timm's convolutions with their names, in the order of Keras's conv2d_1 to conv2d_94."""
    with torch.device("meta"):
        model = build_model(NSFWJS_INCEPTION, 0, {}, None)
    return [(name, part) for name, part in model.named_modules() if isinstance(part, ConvNormAct)]


def _check_layers(model: dict[str, Any], where: str) -> int:
    """How many classes there are. Raises WeightsError for another network than the known one."""
    layers = list(keras_layers(model, _KINDS, where))
    inputs = [config.get("batch_input_shape") for kind, config in layers if kind == "InputLayer"]
    if inputs != [[None, _SIDE, _SIDE, 3]]:
        raise WeightsError(f"{where}: the input is not N x {_SIDE} x {_SIDE} x 3")
    by_name = {config.get("name"): config for kind, config in layers if kind == "Conv2D"}
    expected = _convolutions()
    if len(by_name) != len(expected):
        raise WeightsError(f"{where}: {len(by_name)} convolutions, not {len(expected)}")
    for number, (_, part) in enumerate(expected, start=1):
        config = by_name.get(f"conv2d_{number}", {})
        if not _is_same(config, part.conv):
            raise WeightsError(f"{where}: conv2d_{number} is not InceptionV3's")
    for kind, config in layers:
        if kind == "BatchNormalization" and not (
            config.get("epsilon") == _EPSILON and config.get("scale") is False
        ):
            raise WeightsError(f"{where}: a BatchNormalization is not InceptionV3's")
        if kind == "Activation" and config.get("activation") != "relu":
            raise WeightsError(f"{where}: an activation is not relu")
    dense = [
        (config.get("units"), config.get("activation"))
        for kind, config in layers
        if kind == "Dense"
    ]
    classes = dense[-1][0] if dense else None
    if type(classes) is not int or dense != [
        *((width, "relu") for width in _HIDDEN),
        (classes, "softmax"),
    ]:
        raise WeightsError(f"{where}: the dense layers are not nsfwjs's")
    return classes


def _is_same(config: dict[str, Any], convolution: nn.Conv2d) -> bool:
    """Whether a Keras layer computes what timm's convolution computes."""
    padded = any(convolution.padding)
    return (
        config.get("filters") == convolution.out_channels
        and config.get("kernel_size") == [*convolution.kernel_size]
        and config.get("strides") == [*convolution.stride]
        and config.get("dilation_rate") == [1, 1]
        and config.get("activation") == "linear"
        and config.get("use_bias") is False
        # A 1 x 1 convolution needs no padding, whatever it is called.
        and (convolution.kernel_size == (1, 1) or config.get("padding") == _PADDING[padded])
    )


_PADDING = {True: "same", False: "valid"}


def _renamed(arrays: dict[str, NDArray[np.float32]], where: str) -> dict[str, torch.Tensor]:
    pool = TensorPool({name: torch.from_numpy(array) for name, array in arrays.items()}, where)
    tensors: dict[str, torch.Tensor] = {}
    for number, (name, part) in enumerate(_convolutions(), start=1):
        kernel, norm = pool.take(f"conv2d_{number}/kernel", 4), f"batch_normalization_{number}"
        tensors[f"backbone.{name}.conv.weight"] = kernel.permute(3, 2, 0, 1)
        tensors[f"backbone.{name}.bn.weight"] = torch.ones(part.conv.out_channels)
        tensors[f"backbone.{name}.bn.bias"] = pool.take(f"{norm}/beta")
        tensors[f"backbone.{name}.bn.running_mean"] = pool.take(f"{norm}/moving_mean")
        tensors[f"backbone.{name}.bn.running_var"] = pool.take(f"{norm}/moving_variance")
    for index in range(len(_HIDDEN) + 1):
        tensors[f"head.{2 * index}.weight"] = pool.take(f"dense_{index + 1}/kernel", 2).T
        tensors[f"head.{2 * index}.bias"] = pool.take(f"dense_{index + 1}/bias")
    pool.finish()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
