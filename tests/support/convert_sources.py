"""Sources as their authors publish them, made by transformers and timm with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moderate.classify.bundle import load_bundle
from moderate.classify.device import place
from moderate.classify.labels import LabelModel
from moderate.weights.convert.folder import write_model
from moderate.weights.convert.interface import Converted
from tests.support.bundles import write_card

LABELS = ("normal", "hentai", "Enticing or Sensual")
NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}


def spread(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights everywhere, so that no tensor is zero or one and every use of it shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.1 * noise)
            elif tensor.ndim <= 1:
                tensor.copy_(0.1 * noise)
            else:
                fan = tensor[0].numel() if tensor.ndim > 1 else 1
                head = name.endswith(("classifier.weight", "head.weight", "fc.weight"))
                tensor.copy_(noise * ((5.0 if head else 1.5) / fan**0.5))
    return model.eval()


def write_processor(folder: Path, kind: str, side: int, **changes: Any) -> None:
    stated = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **changes,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))


def change_config(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def pictures(size: tuple[int, int], count: int = 4) -> np.ndarray:
    """Coloured patches under noise: pictures that score differently."""
    rng = np.random.default_rng(7)
    colours = rng.uniform(0, 255, (count, 1, 1, 3))
    patches = rng.uniform(0, 255, (count, 4, 4, 3))
    rows, columns = (np.arange(side) * 4 // side for side in size)
    coarse = patches[:, rows][:, :, columns]
    noise = rng.uniform(0, 255, (count, *size, 3))
    return (0.5 * colours + 0.3 * coarse + 0.2 * noise).astype(np.uint8)


def scores(
    converted: Converted, folder: Path, batch: np.ndarray, backend: str = "torch"
) -> np.ndarray:
    """Probabilities along the tool's own way: written as a bundle, loaded, run."""
    write_model(converted, folder)
    table: dict[str, Any] = {
        "activation": converted.activation,
        "preprocess": converted.preprocess.model_dump(),
        "model_args": converted.model_args,
        "categories": {"nudity": [converted.labels[0]]},
    }
    if converted.head is not None:
        table["head"] = converted.head.model_dump()
    write_card(folder, [table])
    bundle = load_bundle(str(folder))
    assert bundle.models[0].labels == converted.labels
    with pytest.MonkeyPatch.context() as patch:
        # Weights that an earlier test had, too, would be made a program, which takes seconds.
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return LabelModel(bundle.models[0], place("cpu", "fp32", backend)).probabilities(batch)


def reference(model: torch.nn.Module, batch: np.ndarray, mean: Any, std: Any) -> torch.Tensor:
    """Logits of a transformers model for uint8 pictures."""
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    with torch.inference_mode():
        normal = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
        normal = normal.float()
        return model(normal).logits


def vit_repo(folder: Path, seed: int = 0, **sizes: Any) -> torch.nn.Module:
    """A small transformers ViT on disk, with its processor."""
    from transformers import ViTConfig, ViTForImageClassification

    config = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 100,
        "image_size": 32,
        "patch_size": 8,
        **NAMES,
        **sizes,
    }
    model = spread(ViTForImageClassification(ViTConfig(**config)), seed)
    model.save_pretrained(folder)
    write_processor(folder, "ViTImageProcessor", config["image_size"])
    return model
