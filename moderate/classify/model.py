"""One timm model with its weights, from uint8 pixels to label probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moderate.classify.bundle import WEIGHTS, Head, ModelFiles
from moderate.classify.device import Placement
from moderate.classify.files import read_safetensors, shown
from moderate.decode.resize import Pixels
from moderate.errors import WeightsError
from moderate.text import one_line

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class WithHead(nn.Module):
    """A timm backbone and an MLP head; their weights carry the prefixes `backbone.` and `head.`."""

    def __init__(self, backbone: nn.Module, features: int, head: Head, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        layers: list[nn.Module] = []
        for width in head.hidden:
            layers += [nn.Linear(features, width), _ACTIVATIONS[head.activation]()]
            features = width
        self.head = nn.Sequential(*layers, nn.Linear(features, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W normalised pixels to N x classes logits."""
        logits: torch.Tensor = self.head(self.backbone(images))
        return logits


def build(files: ModelFiles) -> nn.Module:
    """The model that a bundle names, without weights. Raises WeightsError."""
    return build_model(
        files.architecture, len(files.labels), files.card.model_args, files.card.head
    )


def build_model(
    architecture: str, classes: int, model_args: Mapping[str, Any], head: Head | None
) -> nn.Module:
    """timm's model with `classes` outputs, without weights. Raises WeightsError.

    model_args are keyword arguments for timm, but for `layer_norm_eps`, which timm takes as code
    only: it is set on every LayerNorm of the model built.
    """
    import timm

    arguments = dict(model_args)
    layer_norm_eps = arguments.pop("layer_norm_eps", None)
    try:
        model: nn.Module = timm.create_model(
            architecture,
            pretrained=False,
            num_classes=0 if head else classes,
            **arguments,
        )
        if head is not None:
            # Some architectures widen the features after num_features (MobileNet's conv_head).
            features: Any = getattr(model, "head_hidden_size", None) or model.num_features
            model = WithHead(model, int(features), head, classes)
    except Exception as error:
        # Whatever a network makes of arguments that do not suit it.
        raise WeightsError(
            f"timm {timm.__version__} cannot build {architecture!r}: {one_line(str(error))}"
        ) from error
    if layer_norm_eps is not None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = float(layer_norm_eps)
    return model


def load_weights(model: nn.Module, files: ModelFiles) -> None:
    """Fill `model` from its safetensors file, every tensor used and finite. Raises WeightsError."""
    path = Path(files.folder) / WEIGHTS
    tensors = read_safetensors(path, files.card.sha256["model.safetensors"])
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{shown(path)} does not fit {files.architecture}: {one_line(str(error), 300)}"
        ) from error


class LabelModel:
    """A loaded model on its device: pixels in, probabilities of its labels out."""

    def __init__(self, files: ModelFiles, placement: Placement) -> None:
        self.labels = files.labels
        self._activation = files.card.activation
        self._placement = placement
        self._device = torch.device(placement.device)
        model = build(files)
        load_weights(model, files)
        self._model = model.eval().to(self._device)
        preprocess = files.card.preprocess
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(preprocess.mean, device=self._device).view(shape) * 255
        self._std = torch.tensor(preprocess.std, device=self._device).view(shape) * 255

    def probabilities(self, pixels: Pixels) -> NDArray[np.float32]:
        """N x H x W x 3 pixels, uint8 or float32 in 0..255, to N x labels float32.

        Pixels cross to the device as they are; normalising happens there.
        """
        # from_numpy shares memory and warns on arrays that may not be written; copies are writable.
        batch = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        images = batch.permute(0, 3, 1, 2).to(torch.float32)
        images = ((images - self._mean) / self._std).contiguous()
        dtype = self._placement.autocast_dtype
        with torch.inference_mode():
            if dtype is None:
                logits = self._model(images)
            else:
                with torch.autocast(self._device.type, dtype):
                    logits = self._model(images)
            logits = logits.float()
            scores = logits.softmax(-1) if self._activation == "softmax" else logits.sigmoid()
            result: NDArray[np.float32] = scores.cpu().numpy()
        return result
