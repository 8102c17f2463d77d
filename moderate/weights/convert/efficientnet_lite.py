"""EfficientNet-Lite0 as converted from TensorFlow to torch (names `_blocks.0`) to timm's names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from moderate.classify.files import shown
from moderate.weights.convert.checks import checked, choose_labels, make_preprocess
from moderate.weights.convert.interface import Converted
from moderate.weights.convert.legacy_pth import read_legacy_pth
from moderate.weights.convert.reading import TensorPool
from moderate.weights.convert.transformer import move_pair

_DEPTHS = (1, 2, 2, 3, 3, 4, 1)


def convert_efficientnet_lite(file: Path, labels: Sequence[str]) -> Converted:
    """timm's `tf_` network pads as TensorFlow does, as this one does. Raises WeightsError."""
    where = shown(file)
    tensors = _renamed(TensorPool(read_legacy_pth(file), where))
    converted = Converted(
        architecture="tf_efficientnet_lite0",
        labels=choose_labels(None, labels, tensors["classifier.bias"].numel(), where),
        activation="softmax",
        preprocess=make_preprocess(
            where,
            size=(224, 224),
            resize="crop",
            interpolation="bicubic",
            crop_pct=0.875,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        tensors=tensors,
        model_args={},
        head=None,
    )
    return checked(converted, where)


def _renamed(pool: TensorPool) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}

    def layer(convolution: str, norm: str, new_convolution: str, new_norm: str) -> None:
        tensors[f"{new_convolution}.weight"] = pool.take(f"{convolution}.weight")
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{new_norm}.{part}"] = pool.take(f"{norm}.{part}")
        if f"{norm}.num_batches_tracked" in pool:
            tensors[f"{new_norm}.num_batches_tracked"] = pool.take(f"{norm}.num_batches_tracked")

    layer("_conv_stem", "_bn0", "conv_stem", "bn1")
    number = 0
    for stage, depth in enumerate(_DEPTHS):
        for block in range(depth):
            old, new = f"_blocks.{number}", f"blocks.{stage}.{block}"
            if stage == 0:  # it does not expand, so timm counts its layers from one less
                layer(f"{old}._depthwise_conv", f"{old}._bn1", f"{new}.conv_dw", f"{new}.bn1")
                layer(f"{old}._project_conv", f"{old}._bn2", f"{new}.conv_pw", f"{new}.bn2")
            else:
                layer(f"{old}._expand_conv", f"{old}._bn0", f"{new}.conv_pw", f"{new}.bn1")
                layer(f"{old}._depthwise_conv", f"{old}._bn1", f"{new}.conv_dw", f"{new}.bn2")
                layer(f"{old}._project_conv", f"{old}._bn2", f"{new}.conv_pwl", f"{new}.bn3")
            number += 1
    layer("_conv_head", "_bn1", "conv_head", "bn2")
    move_pair(pool, "_fc", tensors, "classifier")
    pool.finish()
    return tensors
