"""transformers' ViTForImageClassification to timm's vit_*_patch*."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from moderate.classify.files import read_json, shown
from moderate.errors import WeightsError
from moderate.weights.convert.checks import Argument, activation_of, checked, choose_labels, epsilon
from moderate.weights.convert.interface import Converted, Converter
from moderate.weights.convert.processor import read_processor
from moderate.weights.convert.reading import CONFIG, TensorPool, model_type, read_tensors
from moderate.weights.convert.transformer import (
    activation_argument,
    check_size,
    move_attention,
    move_pair,
    name_architecture,
    read_shape,
)

_FAMILIES = {
    (192, 12, 3, 768): "vit_tiny",
    (384, 12, 6, 1536): "vit_small",
    (768, 12, 12, 3072): "vit_base",
    (1024, 24, 16, 4096): "vit_large",
    (1280, 32, 16, 5120): "vit_huge",
}

# The pooler is a layer of the bare ViTModel; the classifier reads the class token itself.
_HARMLESS = (
    "vit.embeddings.position_ids",
    "vit.pooler.dense.weight",
    "vit.pooler.dense.bias",
)


class Vit(Converter):
    """A ViT whose class token is classified."""

    def recognises(self, folder: Path) -> bool:
        """By the model type."""
        return model_type(folder) == "vit"

    def convert(self, folder: Path, labels: Sequence[str] | None = None) -> Converted:
        """Raises WeightsError."""
        where = shown(folder / CONFIG)
        config = read_json(folder / CONFIG)
        shape = read_shape(config, where)
        architecture, arguments = name_architecture(
            shape, _FAMILIES, infix="", fallback="vit_base_patch16_224"
        )
        own: dict[str, Argument] = {
            "layer_norm_eps": epsilon(config, "layer_norm_eps", 1e-12, where)
        }
        if (act := activation_argument(config, "gelu", where)) != "gelu":
            own["act_layer"] = act
        if not (qkv_bias := _qkv_bias(config, where)):
            own["qkv_bias"] = False
        preprocess = read_processor(folder)
        check_size(shape, preprocess, shown(folder))
        tensors = read_tensors(folder)
        # With timm's names timm trained it, and its settings hold, whatever the config says.
        if "patch_embed.proj.weight" not in tensors:
            tensors = _renamed(tensors, shape.depth, qkv_bias, shown(folder))
            arguments.update(own)
        classes = tensors["head.bias"].numel() if "head.bias" in tensors else 0
        converted = Converted(
            architecture=architecture,
            labels=choose_labels(config.get("id2label"), labels, classes, where),
            activation=activation_of(config, where),
            preprocess=preprocess,
            tensors=tensors,
            model_args=arguments,
            head=None,
        )
        return checked(converted, shown(folder))


def _qkv_bias(config: dict[str, Any], where: str) -> bool:
    value = config.get("qkv_bias", True)
    if not isinstance(value, bool):
        raise WeightsError(f"{where}: qkv_bias must be true or false")
    return value


def _renamed(
    source: dict[str, torch.Tensor], depth: int, qkv_bias: bool, where: str
) -> dict[str, torch.Tensor]:
    pool = TensorPool(source, where)
    tensors = {
        "cls_token": pool.take("vit.embeddings.cls_token"),
        "pos_embed": pool.take("vit.embeddings.position_embeddings"),
    }
    move_pair(pool, "vit.embeddings.patch_embeddings.projection", tensors, "patch_embed.proj")
    for index in range(depth):
        old, new = f"vit.encoder.layer.{index}", f"blocks.{index}"
        move_pair(pool, f"{old}.layernorm_before", tensors, f"{new}.norm1")
        inner = f"{old}.attention.attention"
        names = (f"{inner}.query", f"{inner}.key", f"{inner}.value")
        move_attention(pool, names, tensors, f"{new}.attn.qkv", bias=qkv_bias)
        move_pair(pool, f"{old}.attention.output.dense", tensors, f"{new}.attn.proj")
        move_pair(pool, f"{old}.layernorm_after", tensors, f"{new}.norm2")
        move_pair(pool, f"{old}.intermediate.dense", tensors, f"{new}.mlp.fc1")
        move_pair(pool, f"{old}.output.dense", tensors, f"{new}.mlp.fc2")
    move_pair(pool, "vit.layernorm", tensors, "norm")
    move_pair(pool, "classifier", tensors, "head")
    pool.finish(_HARMLESS)
    return tensors
