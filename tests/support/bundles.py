"""Bundles of weights for tests: small timm models, random but seeded, in the form users have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CATEGORY_LABELS = ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")


def toml_value(value: Any) -> str:
    """A Python value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items()) + " }"
        )
    return repr(value)


def write_card(folder: Path, models: list[dict[str, Any]], **top: Any) -> None:
    """Write moderation.toml; `models` are the [[model]] tables without their digests."""
    head = {
        "format": 1,
        "name": folder.name,
        "purpose": "moderation",
        "title": "a test model",
        "source": "made by the tests",
        "licence": "Apache-2.0",
        "fit_for": "tests",
        **top,
    }
    lines = [f"{key} = {toml_value(value)}" for key, value in head.items()]
    for model in models:
        files = folder / model.get("folder", ".")
        digests = {
            name: hashlib.sha256((files / name).read_bytes()).hexdigest()
            for name in ("config.json", "model.safetensors")
        }
        lines.append("[[model]]")
        for key, value in {"sha256": digests, **model}.items():
            lines.append(f"{key} = {toml_value(value)}")
    (folder / "moderation.toml").write_text("\n".join(lines) + "\n")


def model_table(**changes: Any) -> dict[str, Any]:
    """A [[model]] table for `write_model`'s defaults."""
    return {
        "activation": "sigmoid",
        "preprocess": {
            "size": [64, 64],
            "resize": "squash",
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "categories": {name: [name] for name in CATEGORY_LABELS},
        **changes,
    }


def write_model(
    folder: Path,
    *,
    architecture: str = "test_efficientnet",
    labels: tuple[str, ...] = CATEGORY_LABELS,
    seed: int = 0,
    spread: float = 40.0,
) -> None:
    """Write config.json and model.safetensors of a random model whose scores vary with the image.

    `spread` scales the head, so that scores of different pictures lie apart.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = timm.create_model(architecture, pretrained=False, num_classes=len(labels))
    classifier = model.get_classifier()
    with torch.no_grad():
        for head in classifier if isinstance(classifier, tuple) else (classifier,):
            head.weight.mul_(spread)
            head.bias.uniform_(-0.5, 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
    )
    config = {
        "architecture": architecture,
        "num_classes": len(labels),
        "label_names": list(labels),
        "pretrained_cfg": {
            "input_size": list(model.pretrained_cfg["input_size"]),
            "num_classes": len(labels),
        },
    }
    (folder / "config.json").write_text(json.dumps(config))


def make_bundle(folder: Path, **model: Any) -> Path:
    """A whole bundle of one random model that feeds all five categories."""
    write_model(folder, **model)
    write_card(folder, [model_table()])
    return folder


NETWORK_KINDS = ("convolutions", "attention")


def make_network(folder: Path, kind: str) -> Path:
    """A bundle of a small network of one of NETWORK_KINDS, in a folder of that name."""
    bundle = folder / kind
    table = model_table()
    if kind == "convolutions":
        write_model(bundle, architecture="mobilenetv4_conv_small_035", spread=0.05)
    else:
        write_model(bundle, architecture="test_vit")
        table["preprocess"]["size"] = [160, 160]
    write_card(bundle, [table])
    return bundle


def pixels(count: int, side: int = 64, seed: int = 0) -> np.ndarray:
    """Noise: count x side x side x 3, uint8."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
