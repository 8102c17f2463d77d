"""open_clip's checkpoints, those of timm's repositories too, to two towers.

The files are open_clip_config.json and open_clip_model.safetensors. What a configuration says that
is not known here is refused, because the towers would then compute something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from moderate.classify.card import Preprocess
from moderate.classify.files import read_json, read_safetensors, shown
from moderate.errors import WeightsError
from moderate.text import one_line, printable
from moderate.weights.convert.checks import (
    Argument,
    epsilon,
    integer,
    known_architecture,
    make_preprocess,
)
from moderate.weights.convert.reading import TensorPool
from moderate.weights.convert.timm_config import default_cfg
from moderate.weights.convert.transformer import move_pair, name_architecture, read_shape
from moderate.weights.words.from_transformers import CLIP_FAMILIES
from moderate.weights.words.tokens import Cleaning, Tokenizer
from moderate.weights.words.towers import (
    ImageTower,
    TextTower,
    Towers,
    block_count,
    check_towers,
    one_number,
)

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]
_RESIZE = {"shortest": "crop", "squash": "squash"}

# What may stand in the tables, and the one value that it may have where it is not read: None for
# what matters to training alone.
_MODEL: dict[str, Any] = {
    **dict.fromkeys(("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text")),
    **dict.fromkeys(("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale")),
}
_VISION: dict[str, Any] = {
    **dict.fromkeys(("image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio")),
    **dict.fromkeys(("patch_dropout", "act_kwargs", "norm_kwargs", "timm_model_name")),
    **dict.fromkeys(("timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias")),
    **dict.fromkeys(("timm_drop", "timm_drop_path")),
    "output_tokens": False,
    "attentional_pool": False,
    "attn_pooler_queries": 256,
    "attn_pooler_heads": 8,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "ls_init_value": None,
}
_TEXT: dict[str, Any] = {
    **dict.fromkeys(("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")),
    **dict.fromkeys(("hf_tokenizer_name", "tokenizer_kwargs", "no_causal_mask", "pool_type")),
    **dict.fromkeys(("pad_id", "eos_id", "proj_bias", "act_kwargs", "norm_kwargs")),
    "embed_cls": False,
    "final_ln_after_pool": False,
    "proj_type": "linear",
    "output_tokens": False,
    "tokenizer_mode": None,
    "hf_model_pretrained": True,
    "hf_proj_type": "mlp",
    "hf_pooler_type": "mean_pooler",
}
_NOT_NONE = ("ls_init_value", "tokenizer_mode")  # None is their only value


def recognised(folder: Path) -> bool:
    """Whether a folder has open_clip's configuration."""
    return (folder / CONFIG).is_file()


def read_towers(folder: Path) -> Towers:
    """The towers of a checkpoint in the form of open_clip. Raises WeightsError."""
    where = shown(folder / CONFIG)
    config = read_json(folder / CONFIG)
    model = _table(config.get("model_cfg"), "model_cfg", _MODEL, where)
    vision = _table(model.get("vision_cfg"), "vision_cfg", _VISION, where)
    text = _table(model.get("text_cfg"), "text_cfg", _TEXT, where)
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{shown(folder)}: no {WEIGHTS}; nothing but safetensors is read")
    pool = TensorPool(read_safetensors(folder / WEIGHTS), shown(folder / WEIGHTS))
    siglip = "logit_bias" in pool
    tokenizer = Tokenizer(folder, "siglip" if siglip else "clip", _cleaning(text, where))
    quick = _flag(model, "quick_gelu", False, where)
    features = integer(model, "embed_dim", 512, where)
    preprocess = _preprocess(config.get("preprocess_cfg"), vision, where)
    if "timm_model_name" in vision:
        image = _timm_image(vision, preprocess, features, pool, where)
    else:
        image = _image(vision, preprocess, quick, pool, where)
    prefix = "text." if _flag(model, "custom_text", False, where) else ""
    read_text = _text(text, quick, prefix, pool, tokenizer, where)
    scale = one_number(pool.take("logit_scale").exp(), "logit_scale", where)
    bias = one_number(pool.take("logit_bias"), "logit_bias", where) if siglip else 0.0
    pool.finish(("attn_mask", "text.attn_mask"))
    kind: Literal["clip", "siglip"] = "siglip" if siglip else "clip"
    return check_towers(Towers(kind, image, read_text, scale, bias), shown(folder))


def _table(value: object, key: str, known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table of the configuration, without what is left to its default. Raises WeightsError."""
    if not isinstance(value, dict):
        raise WeightsError(f"{where}: {key} must be a table")
    if key == "text_cfg" and value.get("hf_model_name"):
        raise WeightsError(
            f"{where}: its text tower is {one_line(repr(value['hf_model_name']), 60)}, which is "
            "not supported: CLIP's own is, and SigLIP's"
        )
    for name, stated in value.items():
        if name not in known:
            raise WeightsError(f"{where}: {key}.{printable(name)} is not supported")
        only = known[name]
        if (only is not None or name in _NOT_NONE) and stated not in (only, None):
            raise WeightsError(
                f"{where}: {key}.{name} = {one_line(repr(stated), 40)} is not supported"
            )
    return {name: stated for name, stated in value.items() if stated is not None}


def _flag(table: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise WeightsError(f"{where}: {key} must be true or false")
    return value


def _preprocess(stated: object, vision: Mapping[str, Any], where: str) -> Preprocess:
    if stated is None:
        stated = {}
    if not isinstance(stated, dict):
        raise WeightsError(f"{where}: preprocess_cfg must be a table")
    given = {name: value for name, value in stated.items() if value is not None}
    side = integer(given, "size", integer(vision, "image_size", 224, where), where)
    mode = given.get("resize_mode", "shortest")
    if not isinstance(mode, str) or mode not in _RESIZE:
        raise WeightsError(f"{where}: resize_mode {one_line(repr(mode), 40)} is not supported")
    return make_preprocess(
        where,
        size=(side, side),
        resize=_RESIZE[mode],
        interpolation=given.get("interpolation", "bicubic"),
        mean=given.get("mean", _MEAN),
        std=given.get("std", _STD),
    )


def _activation(table: Mapping[str, Any], quick: bool, where: str) -> str:
    """The name that transformers and timm have in common, but for gelu by tanh."""
    stated = table.get("act_kwargs", {})
    if stated not in ({}, {"approximate": "none"}, {"approximate": "tanh"}):
        raise WeightsError(f"{where}: act_kwargs {one_line(repr(stated), 40)} is not supported")
    if stated.get("approximate") == "tanh":
        return "gelu_pytorch_tanh"
    return "quick_gelu" if quick else "gelu"


def _norm_epsilon(table: Mapping[str, Any], where: str) -> float:
    stated = table.get("norm_kwargs", {})
    if not isinstance(stated, dict) or set(stated) - {"eps"}:
        raise WeightsError(f"{where}: norm_kwargs {one_line(repr(stated), 40)} is not supported")
    return epsilon(stated, "eps", 1e-5, where)


def _ratio(table: Mapping[str, Any], where: str) -> float:
    value = table.get("mlp_ratio", 4.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 100:
        raise WeightsError(f"{where}: mlp_ratio {one_line(repr(value), 40)} is not supported")
    return float(value)


def _image(
    vision: Mapping[str, Any], preprocess: Preprocess, quick: bool, pool: TensorPool, where: str
) -> ImageTower:
    """open_clip's own vision transformer."""
    width = integer(vision, "width", 768, where)
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": vision.get("layers", 12),
        "num_attention_heads": max(1, width // integer(vision, "head_width", 64, where)),
        "intermediate_size": int(width * _ratio(vision, where)),
        "patch_size": vision.get("patch_size", 16),
        "image_size": preprocess.size[0],
    }
    shape = read_shape(sizes, where)
    architecture, arguments = name_architecture(
        shape, CLIP_FAMILIES, infix="clip_", fallback="vit_base_patch16_clip_224"
    )
    activation = _activation(vision, quick, where)
    arguments["act_layer"] = "gelu_tanh" if activation == "gelu_pytorch_tanh" else activation
    arguments["layer_norm_eps"] = _norm_epsilon(vision, where)
    projection = pool.take("visual.proj", 2).T
    tensors = {
        "cls_token": pool.take("visual.class_embedding", 1).reshape(1, 1, -1),
        "pos_embed": pool.take("visual.positional_embedding", 2).unsqueeze(0),
        "patch_embed.proj.weight": pool.take("visual.conv1.weight"),
        "head.weight": projection,
        "head.bias": torch.zeros(projection.shape[0], dtype=projection.dtype),
    }
    move_pair(pool, "visual.ln_pre", tensors, "norm_pre")
    move_pair(pool, "visual.ln_post", tensors, "norm")
    for index in range(shape.depth):
        old, new = f"visual.transformer.resblocks.{index}", f"blocks.{index}"
        move_pair(pool, f"{old}.ln_1", tensors, f"{new}.norm1")
        for part in ("weight", "bias"):
            tensors[f"{new}.attn.qkv.{part}"] = pool.take(f"{old}.attn.in_proj_{part}")
        move_pair(pool, f"{old}.attn.out_proj", tensors, f"{new}.attn.proj")
        move_pair(pool, f"{old}.ln_2", tensors, f"{new}.norm2")
        move_pair(pool, f"{old}.mlp.c_fc", tensors, f"{new}.mlp.fc1")
        move_pair(pool, f"{old}.mlp.c_proj", tensors, f"{new}.mlp.fc2")
    return ImageTower(
        architecture, arguments, tensors, preprocess, int(projection.shape[0]), projected=True
    )


def _timm_image(
    vision: Mapping[str, Any],
    preprocess: Preprocess,
    features: int,
    pool: TensorPool,
    where: str,
) -> ImageTower:
    """A network of timm, with its own classifier as the projection, or with none."""
    architecture = known_architecture(vision["timm_model_name"], where)
    projection, pooled = vision.get("timm_proj", "linear"), vision.get("timm_pool", "avg")
    if "timm_proj" not in vision or projection == "":
        projection = None  # a null or an empty text: the classifier of timm projects
    if projection not in (None, "none"):
        raise WeightsError(
            f"{where}: timm_proj {one_line(repr(projection), 40)} is not supported: null and none "
            "are"
        )
    if not isinstance(pooled, str) or pooled not in ("avg", "token", "map"):
        raise WeightsError(f"{where}: timm_pool {one_line(repr(pooled), 40)} is not supported")
    arguments: dict[str, Argument] = {"global_pool": pooled}
    default = default_cfg(architecture, where)
    side = preprocess.size[0]
    if default["fixed_input_size"] and side != default["input_size"][-1]:
        arguments["img_size"] = side
    tensors = pool.take_all("visual.trunk.")
    return ImageTower(
        architecture, arguments, tensors, preprocess, features, projected=projection is None
    )


def _cleaning(text: Mapping[str, Any], where: str) -> Cleaning:
    """How texts are cleaned; open_clip's defaults depend on whose tokenizer it is."""
    stated = text.get("tokenizer_kwargs", {})
    if stated == {}:
        return "whitespace" if "hf_tokenizer_name" in text else "lower"
    for cleaning in get_args(Cleaning):
        if stated == {"clean": cleaning}:
            found: Cleaning = cleaning
            return found
    raise WeightsError(f"{where}: tokenizer_kwargs {one_line(repr(stated), 60)} is not supported")


def _text(
    text: Mapping[str, Any],
    quick: bool,
    prefix: str,
    pool: TensorPool,
    tokenizer: Tokenizer,
    where: str,
) -> TextTower:
    pooled = text.get("pool_type", "argmax")
    if pooled not in ("argmax", "last"):
        raise WeightsError(f"{where}: pool_type {one_line(repr(pooled), 40)} is not supported")
    if f"{prefix}token_embedding.weight" not in pool:
        raise WeightsError(f"{where}: has no text tower, which prompts need")
    causal = not _flag(text, "no_causal_mask", False, where)
    tensors = {
        "embeddings.token_embedding.weight": pool.take(f"{prefix}token_embedding.weight", 2),
        "embeddings.position_embedding.weight": pool.take(f"{prefix}positional_embedding", 2),
    }
    move_pair(pool, f"{prefix}ln_final", tensors, "final_layer_norm")
    blocks = pool.take_all(f"{prefix}transformer.resblocks.")
    inner = TensorPool(blocks, where)
    for index in range(block_count(blocks, "")):
        new = f"encoder.layers.{index}"
        move_pair(inner, f"{index}.ln_1", tensors, f"{new}.layer_norm1")
        for part in ("weight", "bias"):
            joined = inner.take(f"{index}.attn.in_proj_{part}")
            if joined.shape[0] % 3:
                raise WeightsError(f"{where}: the attention of its text tower has an odd shape")
            for name, tensor in zip("qkv", joined.chunk(3), strict=True):
                tensors[f"{new}.self_attn.{name}_proj.{part}"] = tensor
        move_pair(inner, f"{index}.attn.out_proj", tensors, f"{new}.self_attn.out_proj")
        move_pair(inner, f"{index}.ln_2", tensors, f"{new}.layer_norm2")
        move_pair(inner, f"{index}.mlp.c_fc", tensors, f"{new}.mlp.fc1")
        move_pair(inner, f"{index}.mlp.c_proj", tensors, f"{new}.mlp.fc2")
    inner.finish()
    bias = None
    if _flag(text, "proj_bias", False, where):
        projection = pool.take(f"{prefix}text_projection.weight", 2)
        bias = pool.take(f"{prefix}text_projection.bias", 1)
    else:
        projection = pool.take(f"{prefix}text_projection", 2).T
    # open_clip's own tokenizer fills up with 0, those of transformers with their own token.
    padding = tokenizer.padding if "hf_tokenizer_name" in text else 0
    return TextTower(
        tensors=tensors,
        projection=projection,
        bias=bias,
        heads=integer(text, "heads", 8, where),
        activation=_activation(text, quick, where),
        epsilon=_norm_epsilon(text, where),
        causal=causal,
        pooled="end" if pooled == "argmax" else "last",
        whole=not causal or pooled == "last",
        padding=padding,
        tokenizer=tokenizer,
        where=where,
    )
