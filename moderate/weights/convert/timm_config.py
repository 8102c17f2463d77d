"""timm's `pretrained_cfg` to a bundle's preprocessing, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import PretrainedCfg

from moderate.classify.card import MODEL_ARGS, Preprocess
from moderate.errors import WeightsError
from moderate.text import one_line, printable
from moderate.weights.convert.checks import Argument, make_preprocess
from moderate.weights.convert.interface import Converted
from moderate.weights.convert.processor import three

_MODES = {"center": "crop", "squash": "squash"}

# Above any width or depth there is, and below what would take for ever to build.
_MAX_ARGUMENT = 20_000


def default_cfg(architecture: str, where: str) -> dict[str, Any]:
    """What timm itself says of an architecture it knows. Raises WeightsError."""
    try:
        cfg = timm.models.get_pretrained_cfg(architecture)
    except RuntimeError as error:
        raise WeightsError(f"{where}: {one_line(str(error))}") from error
    if cfg is None:
        raise WeightsError(f"{where}: timm has no default preprocessing for {architecture}")
    return dataclasses.asdict(cfg)


def preprocess_of(stated: Mapping[str, Any], where: str) -> Preprocess:
    """How a `pretrained_cfg` wants its pixels, read as timm's evaluation reads it.

    What it does not state is the default of timm's PretrainedCfg. Raises WeightsError.
    """
    cfg = dataclasses.asdict(PretrainedCfg())
    cfg.update((key, value) for key, value in stated.items() if value is not None)
    size = cfg["input_size"]
    if not isinstance(size, list | tuple) or len(size) != 3 or size[0] != 3:
        raise WeightsError(f"{where}: input_size {one_line(repr(size), 60)} is not 3 x H x W")
    mode = cfg["crop_mode"]
    if not isinstance(mode, str) or mode not in _MODES:
        raise WeightsError(
            f"{where}: crop_mode {one_line(repr(mode), 40)} cannot be expressed in a bundle"
        )
    return make_preprocess(
        where,
        size=tuple(size[1:]),
        resize=_MODES[mode],
        interpolation=cfg["interpolation"],
        crop_pct=cfg["crop_pct"],
        mean=three(cfg["mean"], "mean", where),
        std=three(cfg["std"], "std", where),
    )


def described(
    architecture: str, cfg: Mapping[str, Any], model_args: object, where: str
) -> tuple[Preprocess, dict[str, Argument]]:
    """Preprocessing, and arguments for timm, of a model with this pretrained_cfg and model_args.

    img_size is added for models with a fixed size, where it is not their default. Whether models
    of the architecture have one is asked of timm: repos of convolutional models say so too, and
    those take no img_size. Raises WeightsError.
    """
    arguments = _arguments(model_args, where)
    default = default_cfg(architecture, where)
    if not default["fixed_input_size"] or cfg.get("fixed_input_size") is False:
        return preprocess_of(cfg, where), arguments
    if isinstance(side := arguments.get("img_size"), int):
        # As timm reads it: what the model was built for overrides what the image's size was.
        cfg = {**cfg, "input_size": [3, side, side]}
    preprocess = preprocess_of(cfg, where)
    height, width = preprocess.size
    if (height, width) != tuple(default["input_size"][1:]):
        if height != width:
            raise WeightsError(f"{where}: {architecture} is supported with square input only")
        arguments["img_size"] = height
    return preprocess, arguments


def _arguments(stated: object, where: str) -> dict[str, Argument]:
    """A source's own `model_args`. Raises WeightsError where one could do more than shape it."""
    if stated is None:
        return {}
    if not isinstance(stated, dict):
        raise WeightsError(f"{where}: model_args must be a table")
    result: dict[str, Argument] = {}
    for key, value in stated.items():
        if key == "img_size" and isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]
        if (key == "num_classes" and type(value) is int) or (key == "in_chans" and value == 3):
            continue  # timm writes them, and the labels and the tensors say the same
        if key not in MODEL_ARGS or key == "layer_norm_eps":  # ours, not timm's
            raise WeightsError(f"{where}: model_args may not hold {printable(key)}")
        if value is None:
            continue
        if not isinstance(value, str | int | float | bool):
            raise WeightsError(f"{where}: model_args.{key} cannot be expressed in a bundle")
        if isinstance(value, int) and abs(value) > _MAX_ARGUMENT:
            raise WeightsError(f"{where}: model_args.{key} is too large")
        result[key] = value
    return result


def config_of(converted: Converted) -> dict[str, Any]:
    """config.json as timm writes it for a model on a hub."""
    preprocess = converted.preprocess
    classes = len(converted.labels)
    default = default_cfg(converted.architecture, converted.architecture)
    config: dict[str, Any] = {
        "architecture": converted.architecture,
        "num_classes": classes,
        "label_names": list(converted.labels),
        "pretrained_cfg": {
            "input_size": [3, *preprocess.size],
            "fixed_input_size": bool(default.get("fixed_input_size")),
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_pct,
            "crop_mode": "center" if preprocess.resize == "crop" else "squash",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": classes,
            "first_conv": default.get("first_conv"),
            "classifier": default.get("classifier"),
        },
    }
    # timm itself knows no layer_norm_eps; a bundle's moderation.toml holds all arguments.
    known = {key: v for key, v in converted.model_args.items() if key != "layer_norm_eps"}
    return {**config, "model_args": known} if known else config
