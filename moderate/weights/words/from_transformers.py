"""transformers' CLIPModel and SiglipModel to a timm image tower and a text tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from moderate.classify.files import read_json, shown
from moderate.classify.words import WordsKind
from moderate.errors import WeightsError
from moderate.text import one_line
from moderate.weights.convert.checks import Argument, epsilon, integer
from moderate.weights.convert.processor import read_processor
from moderate.weights.convert.reading import CONFIG, TensorPool, model_type, read_tensors
from moderate.weights.convert.siglip import FAMILIES as SIGLIP_FAMILIES
from moderate.weights.convert.transformer import (
    activation_argument,
    check_size,
    move_attention,
    move_pair,
    name_architecture,
    read_shape,
)
from moderate.weights.words.tokens import Tokenizer
from moderate.weights.words.towers import (
    ACTIVATIONS,
    ImageTower,
    TextTower,
    Towers,
    check_towers,
    one_number,
)

CLIP_FAMILIES = {
    (768, 12, 12, 3072): "vit_base",
    (1024, 24, 16, 4096): "vit_large",
    (1280, 32, 16, 5120): "vit_huge",
    (1408, 40, 16, 6144): "vit_giant",
    (1664, 48, 16, 8192): "vit_gigantic",
}

# What the configurations of transformers leave out where it is as they were first published.
_VISION: dict[WordsKind, dict[str, Any]] = {
    "clip": {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_TEXT: dict[WordsKind, dict[str, Any]] = {
    "clip": {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {
        "num_attention_heads": 12,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}
_HARMLESS = (
    "vision_model.embeddings.position_ids",
    "text_model.embeddings.position_ids",
    "logit_bias",
)


def recognised(folder: Path) -> WordsKind | None:
    """Which of the two a folder's configuration names. Raises WeightsError."""
    kind = model_type(folder)
    return kind if kind == "clip" or kind == "siglip" else None


def read_towers(folder: Path) -> Towers:
    """The towers of a checkpoint in the form of transformers. Raises WeightsError."""
    where = shown(folder / CONFIG)
    config = read_json(folder / CONFIG)
    kind = recognised(folder)
    assert kind is not None
    pool = TensorPool(read_tensors(folder), shown(folder))
    if "text_model.embeddings.token_embedding.weight" not in pool:
        raise WeightsError(
            f"{shown(folder)}: has no text tower, which prompts need; a checkpoint of images alone "
            "is a classifier, or none"
        )
    tokenizer = Tokenizer(folder, kind)
    vision = {**_VISION[kind], **_table(config, "vision_config", where)}
    image = (_clip_image if kind == "clip" else _siglip_image)(folder, vision, pool)
    text = _text(
        kind, {**_TEXT[kind], **_table(config, "text_config", where)}, pool, tokenizer, where
    )
    scale = one_number(pool.take("logit_scale").exp(), "logit_scale", where)
    bias = 0.0
    if kind == "siglip":
        bias = one_number(pool.take("logit_bias"), "logit_bias", where)
    pool.finish(_HARMLESS)
    return check_towers(Towers(kind, image, text, scale, bias), shown(folder))


def _table(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    table = config.get(key)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise WeightsError(f"{where}: {key} must be a table")
    return {name: value for name, value in table.items() if value is not None}


def _image_arguments(
    vision: Mapping[str, Any], arguments: dict[str, Argument], where: str
) -> dict[str, Argument]:
    arguments["act_layer"] = activation_argument(vision, "", where)
    arguments["layer_norm_eps"] = epsilon(vision, "layer_norm_eps", 1e-5, where)
    return arguments


def _clip_image(folder: Path, vision: Mapping[str, Any], pool: TensorPool) -> ImageTower:
    where = shown(folder / CONFIG)
    shape = read_shape(vision, where)
    architecture, arguments = name_architecture(
        shape, CLIP_FAMILIES, infix="clip_", fallback="vit_base_patch16_clip_224"
    )
    preprocess = read_processor(folder)
    check_size(shape, preprocess, shown(folder))
    model = "vision_model"
    projection = pool.take("visual_projection.weight", 2)
    tensors = {
        "cls_token": pool.take(f"{model}.embeddings.class_embedding", 1).reshape(1, 1, -1),
        "pos_embed": pool.take(f"{model}.embeddings.position_embedding.weight", 2).unsqueeze(0),
        "patch_embed.proj.weight": pool.take(f"{model}.embeddings.patch_embedding.weight"),
        "head.weight": projection,
        "head.bias": torch.zeros(projection.shape[0], dtype=projection.dtype),
    }
    move_pair(pool, f"{model}.pre_layrnorm", tensors, "norm_pre")
    _move_blocks(pool, model, shape.depth, tensors)
    move_pair(pool, f"{model}.post_layernorm", tensors, "norm")
    arguments = _image_arguments(vision, arguments, where)
    return ImageTower(
        architecture, arguments, tensors, preprocess, int(projection.shape[0]), projected=True
    )


def _siglip_image(folder: Path, vision: Mapping[str, Any], pool: TensorPool) -> ImageTower:
    where = shown(folder / CONFIG)
    if vision.get("vision_use_head") is False:
        raise WeightsError(f"{where}: vision_use_head = false gives no features to compare")
    shape = read_shape(vision, where)
    architecture, arguments = name_architecture(
        shape, SIGLIP_FAMILIES, infix="siglip_", fallback="vit_base_patch16_siglip_224"
    )
    preprocess = read_processor(folder)
    check_size(shape, preprocess, shown(folder))
    model = "vision_model"
    positions = pool.take(f"{model}.embeddings.position_embedding.weight", 2)
    tensors = {"pos_embed": positions.unsqueeze(0)}
    move_pair(pool, f"{model}.embeddings.patch_embedding", tensors, "patch_embed.proj")
    _move_blocks(pool, model, shape.depth, tensors)
    move_pair(pool, f"{model}.post_layernorm", tensors, "norm")
    head = f"{model}.head"
    tensors["attn_pool.latent"] = pool.take(f"{head}.probe", 3)
    for part, dimensions in (("weight", 2), ("bias", 1)):
        joined = pool.take(f"{head}.attention.in_proj_{part}", dimensions)
        if joined.shape[0] != 3 * shape.width:
            raise WeightsError(f"{where}: {head}.attention does not fit hidden_size {shape.width}")
        tensors[f"attn_pool.q.{part}"] = joined[: shape.width]
        tensors[f"attn_pool.kv.{part}"] = joined[shape.width :]
    move_pair(pool, f"{head}.attention.out_proj", tensors, "attn_pool.proj")
    move_pair(pool, f"{head}.layernorm", tensors, "attn_pool.norm")
    move_pair(pool, f"{head}.mlp.fc1", tensors, "attn_pool.mlp.fc1")
    move_pair(pool, f"{head}.mlp.fc2", tensors, "attn_pool.mlp.fc2")
    arguments = _image_arguments(vision, arguments, where)
    return ImageTower(architecture, arguments, tensors, preprocess, shape.width, projected=False)


def _move_blocks(
    pool: TensorPool, model: str, depth: int, tensors: dict[str, torch.Tensor]
) -> None:
    for index in range(depth):
        old, new = f"{model}.encoder.layers.{index}", f"blocks.{index}"
        move_pair(pool, f"{old}.layer_norm1", tensors, f"{new}.norm1")
        inner = f"{old}.self_attn"
        names = (f"{inner}.q_proj", f"{inner}.k_proj", f"{inner}.v_proj")
        move_attention(pool, names, tensors, f"{new}.attn.qkv")
        move_pair(pool, f"{inner}.out_proj", tensors, f"{new}.attn.proj")
        move_pair(pool, f"{old}.layer_norm2", tensors, f"{new}.norm2")
        move_pair(pool, f"{old}.mlp.fc1", tensors, f"{new}.mlp.fc1")
        move_pair(pool, f"{old}.mlp.fc2", tensors, f"{new}.mlp.fc2")


def _text(
    kind: WordsKind, text: Mapping[str, Any], pool: TensorPool, tokenizer: Tokenizer, where: str
) -> TextTower:
    activation = text["hidden_act"]
    if activation not in ACTIVATIONS:
        raise WeightsError(f"{where}: hidden_act {one_line(repr(activation), 40)} is not supported")
    prefix = "text_model."
    tensors = pool.take_all(prefix, but=("embeddings.position_ids", "head.weight", "head.bias"))
    if kind == "clip":
        projection, bias = pool.take("text_projection.weight", 2), None
    else:
        projection, bias = pool.take(f"{prefix}head.weight", 2), pool.take(f"{prefix}head.bias", 1)
    return TextTower(
        tensors=tensors,
        projection=projection,
        bias=bias,
        heads=integer(text, "num_attention_heads", 12, where),
        activation=str(activation),
        epsilon=epsilon(text, "layer_norm_eps", 1e-5, where),
        causal=kind == "clip",
        pooled="end" if kind == "clip" else "last",
        whole=kind == "siglip",
        padding=tokenizer.padding,
        tokenizer=tokenizer,
        where=where,
    )
