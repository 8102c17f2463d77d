"""What transformers' ViT and SigLIP classifiers share: sizes, and the layers of a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch

from moderate.classify.card import Preprocess
from moderate.errors import WeightsError
from moderate.text import one_line
from moderate.weights.convert.checks import Argument, integer
from moderate.weights.convert.reading import TensorPool

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a vision transformer; image and patch are square, in pixels."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    image: int


def read_shape(config: Mapping[str, Any], where: str) -> Shape:
    """The sizes in a config, ViT-Base where it is silent. Raises WeightsError."""
    if integer(config, "num_channels", 3, where) != 3:
        raise WeightsError(f"{where}: a model of pictures has 3 channels")
    shape = Shape(
        width=integer(config, "hidden_size", 768, where),
        depth=integer(config, "num_hidden_layers", 12, where),
        heads=integer(config, "num_attention_heads", 12, where),
        hidden=integer(config, "intermediate_size", 3072, where),
        patch=integer(config, "patch_size", 16, where),
        image=integer(config, "image_size", 224, where),
    )
    # Building is layer by layer, so depth is time; the rest is checked against the tensors.
    if shape.depth > 200 or shape.width % shape.heads or shape.image // shape.patch > 512:
        raise WeightsError(f"{where}: {shape} is no vision transformer that is supported")
    return shape


def activation_argument(config: Mapping[str, Any], default: str, where: str) -> str:
    """timm's name for the activation between the two layers of a block. Raises WeightsError."""
    name = config.get("hidden_act", default)
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise WeightsError(f"{where}: hidden_act {one_line(repr(name), 40)} is not supported")
    return _ACTIVATIONS[name]


def name_architecture(
    shape: Shape, families: Mapping[tuple[int, int, int, int], str], infix: str, fallback: str
) -> tuple[str, dict[str, Argument]]:
    """timm's name for a shape, and the arguments for what that name does not say.

    families maps (width, depth, heads, hidden) to names such as vit_base. A shape without a name
    is `fallback` with every size given.
    """
    sizes = (shape.width, shape.depth, shape.heads, shape.hidden)
    if sizes in families:
        stem = f"{families[sizes]}_patch{shape.patch}_{infix}"
        if timm.is_model(f"{stem}{shape.image}"):
            return f"{stem}{shape.image}", {}
        for near in timm.list_models(f"{stem}[0-9]*"):
            if near.removeprefix(stem).isdigit():
                return near, {"img_size": shape.image}
    ratio = shape.hidden / shape.width
    if int(shape.width * ratio) != shape.hidden:
        ratio = (shape.hidden + 0.5) / shape.width  # timm rounds the product down
    return fallback, {
        "img_size": shape.image,
        "patch_size": shape.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": ratio,
    }


def check_size(shape: Shape, preprocess: Preprocess, where: str) -> None:
    """Raises WeightsError where images come in another size than the model has positions for."""
    if preprocess.size != (shape.image, shape.image):
        height, width = preprocess.size
        raise WeightsError(
            f"{where}: the model takes {shape.image} x {shape.image} pixels, but its "
            f"preprocessing gives {height} x {width}"
        )


def move_pair(pool: TensorPool, source: str, tensors: dict[str, torch.Tensor], target: str) -> None:
    """The weight and bias of one layer."""
    for part in ("weight", "bias"):
        tensors[f"{target}.{part}"] = pool.take(f"{source}.{part}")


def move_attention(
    pool: TensorPool,
    sources: tuple[str, str, str],
    tensors: dict[str, torch.Tensor],
    target: str,
    *,
    bias: bool = True,
) -> None:
    """Query, key and value, which timm holds as one layer."""
    for part in ("weight", "bias") if bias else ("weight",):
        tensors[f"{target}.{part}"] = pool.joined(f"{source}.{part}" for source in sources)
