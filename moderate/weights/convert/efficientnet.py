"""transformers' EfficientNetForImageClassification to timm's tf_efficientnet_b*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from moderate.classify.card import Preprocess
from moderate.classify.files import read_json, shown
from moderate.errors import WeightsError
from moderate.text import one_line
from moderate.weights.convert.checks import Argument, activation_of, checked, choose_labels, epsilon
from moderate.weights.convert.interface import Converted, Converter
from moderate.weights.convert.processor import read_processor
from moderate.weights.convert.reading import CONFIG, TensorPool, model_type, read_tensors
from moderate.weights.convert.transformer import move_pair

# (width, depth) coefficients of B0 to B8.
_SCALES = (
    (1.0, 1.0),
    (1.0, 1.1),
    (1.1, 1.2),
    (1.2, 1.4),
    (1.4, 1.8),
    (1.6, 2.2),
    (1.8, 2.6),
    (2.0, 3.1),
    (2.2, 3.6),
)
_REPEATS, _STRIDES = (1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1)

# What all of them share, and what transformers takes where a config is silent.
_SHARED: dict[str, Any] = {
    "num_channels": 3,
    "depth_divisor": 8,
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "strides": list(_STRIDES),
    "num_block_repeats": list(_REPEATS),
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
    "squeeze_expansion_ratio": 0.25,
    "pooling_type": "mean",
}


class EfficientNet(Converter):
    """An EfficientNet whose weights come from TensorFlow."""

    def recognises(self, folder: Path) -> bool:
        """By the model type."""
        return model_type(folder) == "efficientnet"

    def convert(self, folder: Path, labels: Sequence[str] | None = None) -> Converted:
        """Raises WeightsError."""
        where = shown(folder / CONFIG)
        config = read_json(folder / CONFIG)
        for key, value in _SHARED.items():
            if config.get(key, value) != value:
                raise WeightsError(f"{where}: {key} is not that of an EfficientNet B0 to B8")
        if config.get("hidden_act", "swish") not in ("swish", "silu"):
            raise WeightsError(f"{where}: hidden_act is not that of an EfficientNet B0 to B8")
        scale = (config.get("width_coefficient", 2.0), config.get("depth_coefficient", 3.1))
        if scale not in _SCALES:
            raise WeightsError(
                f"{where}: no EfficientNet B0 to B8 has these coefficients of width and depth: "
                f"{one_line(repr(scale), 60)}"
            )
        arguments: dict[str, Argument] = {}
        if (eps := epsilon(config, "batch_norm_eps", 1e-3, where)) != 1e-3:
            arguments["bn_eps"] = eps
        depths = tuple(math.ceil(scale[1] * repeat) for repeat in _REPEATS)
        preprocess = read_processor(folder)
        _check_padding(config, depths, preprocess, where)
        tensors = _renamed(read_tensors(folder), depths, shown(folder))
        converted = Converted(
            architecture=f"tf_efficientnet_b{_SCALES.index(scale)}",
            labels=choose_labels(
                config.get("id2label"), labels, tensors["classifier.bias"].numel(), where
            ),
            activation=activation_of(config, where),
            preprocess=preprocess,
            tensors=tensors,
            model_args=arguments,
            head=None,
        )
        return checked(converted, shown(folder))


def _check_padding(
    config: dict[str, Any], depths: tuple[int, ...], preprocess: Preprocess, where: str
) -> None:
    """Raises WeightsError where transformers pads otherwise than TensorFlow at this input size.

    TensorFlow, and timm, pad a halving layer by whether its input is even or odd; transformers by
    a list in the config, which was written for the size that the author had in mind.
    """
    square = config.get("depthwise_padding") or []
    if not isinstance(square, list | tuple):
        raise WeightsError(f"{where}: depthwise_padding must be a list")
    for start in preprocess.size:
        fits, side, block = start % 2 == 0, (start + 1) // 2, 0
        for depth, stride in zip(depths, _STRIDES, strict=True):
            if stride == 2:
                fits = fits and (side % 2 == 1) == (block in square)
                side = (side + 1) // 2
            block += depth
        if not fits:
            raise WeightsError(
                f"{where}: with input of {start} pixels transformers pads this model otherwise "
                "than timm can (depthwise_padding), so scores would differ"
            )


def _renamed(
    source: dict[str, torch.Tensor], depths: tuple[int, ...], where: str
) -> dict[str, torch.Tensor]:
    pool = TensorPool(source, where)
    tensors: dict[str, torch.Tensor] = {}

    def convolution(old: str, new: str) -> None:
        tensors[f"{new}.weight"] = pool.take(f"{old}.weight")

    def norm(old: str, new: str) -> None:
        move_pair(pool, old, tensors, new)
        for part in ("running_mean", "running_var"):
            tensors[f"{new}.{part}"] = pool.take(f"{old}.{part}")
        if f"{old}.num_batches_tracked" in pool:
            tensors[f"{new}.num_batches_tracked"] = pool.take(f"{old}.num_batches_tracked")

    convolution("efficientnet.embeddings.convolution", "conv_stem")
    norm("efficientnet.embeddings.batchnorm", "bn1")
    number = 0
    for stage, depth in enumerate(depths):
        for block in range(depth):
            old, new = f"efficientnet.encoder.blocks.{number}", f"blocks.{stage}.{block}"
            # The first stage does not expand, so its layers count from one less.
            first = 1 if stage == 0 else 2
            if stage > 0:
                convolution(f"{old}.expansion.expand_conv", f"{new}.conv_pw")
                norm(f"{old}.expansion.expand_bn", f"{new}.bn1")
            convolution(f"{old}.depthwise_conv.depthwise_conv", f"{new}.conv_dw")
            norm(f"{old}.depthwise_conv.depthwise_norm", f"{new}.bn{first}")
            move_pair(pool, f"{old}.squeeze_excite.reduce", tensors, f"{new}.se.conv_reduce")
            move_pair(pool, f"{old}.squeeze_excite.expand", tensors, f"{new}.se.conv_expand")
            project = "conv_pw" if stage == 0 else "conv_pwl"
            convolution(f"{old}.projection.project_conv", f"{new}.{project}")
            norm(f"{old}.projection.project_bn", f"{new}.bn{first + 1}")
            number += 1
    convolution("efficientnet.encoder.top_conv", "conv_head")
    norm("efficientnet.encoder.top_bn", "bn2")
    move_pair(pool, "classifier", tensors, "classifier")
    pool.finish()
    return tensors
