"""transformers' SiglipForImageClassification to timm's vit_*_siglip_gap_*."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from moderate.classify.files import read_json, shown
from moderate.errors import WeightsError
from moderate.weights.convert.checks import activation_of, checked, choose_labels, epsilon
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

FAMILIES = {
    (768, 12, 12, 3072): "vit_base",
    (1024, 24, 16, 4096): "vit_large",
    (1152, 27, 16, 4304): "vit_so400m",
    (1536, 40, 16, 6144): "vit_giantopt",
}

# SigLIP's attention pooling; its classifier averages the patches instead.
_POOLING = tuple(
    f"vision_model.head.{name}"
    for name in (
        "probe",
        "attention.in_proj_weight",
        "attention.in_proj_bias",
        "attention.out_proj.weight",
        "attention.out_proj.bias",
        "layernorm.weight",
        "layernorm.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
    )
)
_HARMLESS = (*_POOLING, "vision_model.embeddings.position_ids")


class Siglip(Converter):
    """A SigLIP image tower with a linear classifier over the mean of its patches."""

    def recognises(self, folder: Path) -> bool:
        """By the model type."""
        return model_type(folder) in ("siglip", "siglip_vision_model")

    def convert(self, folder: Path, labels: Sequence[str] | None = None) -> Converted:
        """Raises WeightsError."""
        where = shown(folder / CONFIG)
        config = read_json(folder / CONFIG)
        vision = config if config["model_type"] != "siglip" else config.get("vision_config", {})
        if not isinstance(vision, dict):
            raise WeightsError(f"{where}: vision_config must be a table")
        shape = read_shape(vision, where)
        architecture, arguments = name_architecture(
            shape, FAMILIES, infix="siglip_gap_", fallback="vit_base_patch16_siglip_gap_224"
        )
        arguments["act_layer"] = activation_argument(vision, "gelu_pytorch_tanh", where)
        arguments["layer_norm_eps"] = epsilon(vision, "layer_norm_eps", 1e-6, where)
        preprocess = read_processor(folder)
        check_size(shape, preprocess, shown(folder))
        tensors = _renamed(read_tensors(folder), shape.depth, shown(folder))
        converted = Converted(
            architecture=architecture,
            labels=choose_labels(
                config.get("id2label"), labels, tensors["head.bias"].numel(), where
            ),
            activation=activation_of(config, where),
            preprocess=preprocess,
            tensors=tensors,
            model_args=arguments,
            head=None,
        )
        return checked(converted, shown(folder))


def _renamed(source: dict[str, torch.Tensor], depth: int, where: str) -> dict[str, torch.Tensor]:
    pool = TensorPool(source, where)
    positions = pool.take("vision_model.embeddings.position_embedding.weight", 2)
    tensors = {"pos_embed": positions.unsqueeze(0)}
    move_pair(pool, "vision_model.embeddings.patch_embedding", tensors, "patch_embed.proj")
    for index in range(depth):
        old, new = f"vision_model.encoder.layers.{index}", f"blocks.{index}"
        move_pair(pool, f"{old}.layer_norm1", tensors, f"{new}.norm1")
        inner = f"{old}.self_attn"
        names = (f"{inner}.q_proj", f"{inner}.k_proj", f"{inner}.v_proj")
        move_attention(pool, names, tensors, f"{new}.attn.qkv")
        move_pair(pool, f"{inner}.out_proj", tensors, f"{new}.attn.proj")
        move_pair(pool, f"{old}.layer_norm2", tensors, f"{new}.norm2")
        move_pair(pool, f"{old}.mlp.fc1", tensors, f"{new}.mlp.fc1")
        move_pair(pool, f"{old}.mlp.fc2", tensors, f"{new}.mlp.fc2")
    move_pair(pool, "vision_model.post_layernorm", tensors, "norm")
    move_pair(pool, "classifier", tensors, "head")
    pool.finish(_HARMLESS)
    return tensors
