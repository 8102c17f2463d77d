"""Networks for the benchmarks: bundles with random weights, and models whose scores spread."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import tomli_w
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from moderate.classify.bundle import load_bundle
from moderate.classify.model import build, load_weights
from moderate.decode.resize import PixelSpec
from moderate.types import CATEGORIES

LABELS = tuple(str(category) for category in CATEGORIES)
LOGIT_SPREAD = 2.0
"""Standard deviation of a random model's logits over the pictures: sigmoid then fills 0..1."""


def random_bundle(folder: Path, architecture: str, size: int | None = None) -> Path:
    """A bundle in `folder` with seeded random weights, which timm and transformers load as well.

    The picture is fed as timm's own evaluation transform does it. size overrides the input's side.
    """
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=len(LABELS))
    cfg = dict(model.pretrained_cfg)
    if size:
        cfg["input_size"] = (3, size, size)
    kept = (
        "input_size",
        "fixed_input_size",
        "interpolation",
        "crop_pct",
        "crop_mode",
        "mean",
        "std",
        "pool_size",
    )
    config = {
        "architecture": architecture,
        "num_classes": len(LABELS),
        "num_features": model.num_features,
        "label_names": list(LABELS),
        "pretrained_cfg": {
            **{key: cfg[key] for key in kept if cfg.get(key) is not None},
            "num_classes": len(LABELS),
            "first_conv": cfg.get("first_conv"),
            "classifier": cfg.get("classifier"),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fed = resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"])
    card: dict[str, Any] = {
        "format": 1,
        "name": folder.name,
        "purpose": "demo",
        "title": f"{architecture} with random weights",
        "source": "made by benchmarks/networks.py",
        "licence": "Apache-2.0",
        "fit_for": "measuring speed",
        "model": [
            {
                "activation": "sigmoid",
                "sha256": {
                    name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                    for name in ("config.json", "model.safetensors")
                },
                "preprocess": {
                    "size": list(fed["input_size"][1:]),
                    "resize": "squash" if fed["crop_mode"] == "squash" else "crop",
                    "interpolation": fed["interpolation"],
                    "crop_pct": float(fed["crop_pct"]),
                    "mean": list(fed["mean"]),
                    "std": list(fed["std"]),
                },
                "categories": {label: [label] for label in LABELS},
            }
        ],
    }
    (folder / "moderation.toml").write_text(tomli_w.dumps(card))
    return folder


@dataclass
class Network:
    """A model in fp32, timm's transform for it, and the same said as a PixelSpec."""

    model: torch.nn.Module
    transform: Any
    spec: PixelSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    activation: str
    trained: bool
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None

    @property
    def feeding(self) -> tuple[Any, ...]:
        """All that the pixels depend on: networks that agree in it can share them."""
        return self.spec, self.mean, self.std

    @property
    def kernel(self) -> Image.Resampling:
        """Pillow's name of the interpolation."""
        return Image.Resampling[self.spec.interpolation.upper()]

    def settle(self, images: Sequence[NDArray[np.float32]]) -> None:
        """Give batch normalisation the statistics of real pictures, as training would have.

        With those it starts with, a random network's layers shrink or blow up what they pass on.
        images: 3 x H x W each, normalised.
        """
        norms = [m for m in self.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        if not norms:
            return
        momentums = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain average over the batches
        self.model.train()
        with torch.inference_mode():
            for start in range(0, len(images), 32):
                self.model(torch.from_numpy(np.stack(images[start : start + 32])))
        self.model.eval()
        for norm, momentum in zip(norms, momentums, strict=True):
            norm.momentum = momentum

    def raw(self, images: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Per image the features of a random model, the logits of a trained one."""
        out: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for start in range(0, len(images), 32):
                batch = torch.from_numpy(np.stack(images[start : start + 32]))
                if self.trained:
                    result = self.model(batch)
                else:
                    features = self.model.forward_features(batch)
                    result = self.model.forward_head(features, pre_logits=True)
                out += list(result.numpy())
        return out

    def spread(self, raw: NDArray[np.float32]) -> None:
        """Set a random model's head so that logits have mean 0 and LOGIT_SPREAD over `raw`.

        A random network as it comes gives every picture nearly one score, so any decode would
        pass. Here small changes of features move scores as much as in a trained one.
        """
        if self.trained:
            return
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((raw.shape[1], len(LABELS))).astype(np.float32)
        logits = raw @ weight
        self.weight = weight * (LOGIT_SPREAD / logits.std(axis=0))
        self.bias = -(raw @ self.weight).mean(axis=0)

    def score(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """N x labels scores in 0..1 of N raw outputs."""
        logits = raw if self.weight is None else raw @ self.weight + self.bias
        if self.activation == "softmax":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            softened: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
            return softened
        return 1 / (1 + np.exp(-logits))


def random_network(architecture: str) -> Network:
    """timm's model of that name with seeded random weights and timm's transform for it."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=len(LABELS)).eval()
    config = resolve_data_config({}, model=model)
    return _network(model, config, "sigmoid", trained=False)


def trained_network(bundle: str) -> Network:
    """The first model of a bundle, with timm's transform for its preprocessing.

    A bundle without antialiasing is fed with it here: its scores then mean something else, but
    its trained filters are what reduced decoding is to be tried on.
    """
    files = load_bundle(bundle).models[0]
    model = build(files)
    load_weights(model, files)
    fed = files.card.preprocess
    config = {
        "input_size": (3, *fed.size),
        "interpolation": fed.interpolation,
        "crop_pct": fed.crop_pct,
        "crop_mode": "squash" if fed.resize == "squash" else "center",
        "mean": fed.mean,
        "std": fed.std,
    }
    return _network(model.eval(), config, files.card.activation, trained=True)


def _network(
    model: torch.nn.Module, config: dict[str, Any], activation: str, *, trained: bool
) -> Network:
    keys = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    config = {key: config[key] for key in keys}
    height, width = config["input_size"][1:]
    spec = PixelSpec(
        height=height,
        width=width,
        resize="squash" if config["crop_mode"] == "squash" else "crop",
        crop_pct=float(config["crop_pct"]),
        interpolation=config["interpolation"],
    )
    return Network(
        model,
        create_transform(**config),
        spec,
        tuple(config["mean"]),
        tuple(config["std"]),
        activation,
        trained,
    )
