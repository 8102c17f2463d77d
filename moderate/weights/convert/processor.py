"""Translates a transformers image processor to a bundle's preprocessing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from moderate.classify.card import Preprocess
from moderate.classify.files import read_json, shown
from moderate.errors import WeightsError
from moderate.text import one_line
from moderate.weights.convert.checks import make_preprocess

PROCESSOR = "preprocessor_config.json"

# Pillow's numbers, which transformers stores.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

_HALF, _MEAN, _STD = [0.5, 0.5, 0.5], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# What each processor does where its file is silent.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, "image_mean": _HALF, "image_std": _HALF},
    "Siglip": {"size": 224, "resample": 3, "image_mean": _HALF, "image_std": _HALF},
    "CLIP": {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
        "do_center_crop": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "EfficientNet": {
        "size": 346,
        "crop_size": 289,
        "resample": 3,
        "image_mean": _HALF,
        "image_std": _HALF,
        "include_top": True,
    },
}


def read_processor(folder: Path) -> Preprocess:
    """The preprocessing that preprocessor_config.json states. Raises WeightsError."""
    where = shown(folder / PROCESSOR)
    stated = read_json(folder / PROCESSOR)
    kind = stated.get("image_processor_type") or stated.get("feature_extractor_type")
    family = str(kind).removesuffix("Fast").removesuffix("Pil")
    family = family.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if family not in _DEFAULTS:
        raise WeightsError(f"{where}: the image processor {one_line(repr(kind), 60)} is not known")
    given = {**_DEFAULTS[family], **{key: v for key, v in stated.items() if v is not None}}
    if family == "CLIP" and isinstance(given["size"], int):
        given["size"] = {"shortest_edge": given["size"]}  # as its first files say it
    if not _flag(given, "do_resize", True, where):
        raise WeightsError(f"{where}: do_resize = false; a bundle resizes every picture")
    if _flag(given, "do_pad", False, where):
        raise WeightsError(f"{where}: do_pad cannot be expressed in a bundle")
    resample = given["resample"]
    if isinstance(resample, bool) or not isinstance(resample, int) or resample not in _RESAMPLE:
        raise WeightsError(f"{where}: resample {one_line(repr(resample), 40)} is not known")
    mean, std = _normalisation(given, where)
    return make_preprocess(
        where,
        **_geometry(given, where),
        interpolation=_RESAMPLE[resample],
        mean=mean,
        std=std,
    )


def _geometry(given: dict[str, Any], where: str) -> dict[str, Any]:
    size = given["size"]
    crop = _flag(given, "do_center_crop", False, where)
    if isinstance(size, dict) and set(size) == {"shortest_edge"} and crop:
        shortest, cut = _side(size["shortest_edge"], where), _sides(given.get("crop_size"), where)
        if cut[0] == cut[1] <= shortest:
            return {"size": cut, "resize": "crop", "crop_pct": cut[0] / shortest}
    elif not crop:
        return {"size": _sides(size, where), "resize": "squash"}
    raise WeightsError(
        f"{where}: size {one_line(repr(size), 60)} with do_center_crop = {str(crop).lower()} "
        "cannot be expressed in a bundle"
    )


def _sides(size: object, where: str) -> tuple[int, int]:
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return _side(size["height"], where), _side(size["width"], where)
    return _side(size, where), _side(size, where)


def _side(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536:
        return value
    raise WeightsError(f"{where}: size {one_line(repr(value), 60)} is not supported")


def _normalisation(given: dict[str, Any], where: str) -> tuple[list[float], list[float]]:
    """Mean and std over 0..1 values that come to what the processor does to 0..255 ones."""
    factor, offset = 255.0, 0.0
    if _flag(given, "do_rescale", True, where):
        factor = 255.0 * _number(given.get("rescale_factor", 1 / 255), "rescale_factor", where)
        factor = 1.0 if math.isclose(factor, 1.0, rel_tol=1e-9) else factor
        offset = 1.0 if _flag(given, "rescale_offset", False, where) else 0.0
    if factor <= 0:
        raise WeightsError(f"{where}: rescale_factor must be above 0")
    mean, std = [0.0] * 3, [1.0] * 3
    if _flag(given, "do_normalize", True, where):
        mean = three(given["image_mean"], "image_mean", where)
        std = three(given["image_std"], "image_std", where)
    if _flag(given, "include_top", False, where):
        # EfficientNet's processor divides by the deviation once more.
        again = three(given["image_std"], "image_std", where)
        std = [one * two for one, two in zip(std, again, strict=True)]
    return [(value + offset) / factor for value in mean], [value / factor for value in std]


def three(values: object, key: str, where: str) -> list[float]:
    """One number per colour. Raises WeightsError."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise WeightsError(f"{where}: {key} must be three numbers")
    return [_number(value, key, where) for value in values]


def _number(value: object, key: str, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6:
        return float(value)
    raise WeightsError(f"{where}: {key} {one_line(repr(value), 60)} is not supported")


def _flag(given: dict[str, Any], key: str, default: bool, where: str) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise WeightsError(f"{where}: {key} must be true or false")
    return value
