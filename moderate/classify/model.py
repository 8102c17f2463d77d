"""One timm model with its weights, as a torch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from moderate.classify.bundle import ModelFiles
from moderate.classify.card import WEIGHTS, Head
from moderate.classify.files import read_safetensors, shown
from moderate.classify.words import Words
from moderate.classify.words_head import WithWords
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
    card = files.card
    return build_model(
        files.architecture, len(files.labels), card.model_args, card.head, card.words
    )


def build_model(
    architecture: str,
    classes: int,
    model_args: Mapping[str, Any],
    head: Head | None,
    words: Words | None = None,
) -> nn.Module:
    """timm's model with `classes` outputs, without weights. Raises WeightsError.

    model_args are keyword arguments for timm, but for `layer_norm_eps`, which timm takes as code
    only: it is set on every LayerNorm of the model built.
    """
    import timm

    import moderate.classify.architectures  # noqa: F401 - registers our own with timm

    outputs = 0 if head else classes
    if words is not None:
        outputs = words.features if words.projected else 0
    arguments = dict(model_args)
    layer_norm_eps = arguments.pop("layer_norm_eps", None)
    try:
        model: nn.Module = timm.create_model(
            architecture,
            pretrained=False,
            num_classes=outputs,
            **arguments,
        )
        if head is not None:
            # Some architectures widen the features after num_features (MobileNet's conv_head).
            features: Any = getattr(model, "head_hidden_size", None) or model.num_features
            model = WithHead(model, int(features), head, classes)
        elif words is not None:
            model = WithWords(model, words)
    except Exception as error:
        # timm's networks raise anything for arguments that do not suit them.
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


def load_model(files: ModelFiles) -> nn.Module:
    """The model with its weights, on the CPU, ready to be run. Raises WeightsError."""
    with _NoRandomFill():
        model = build(files)
    load_weights(model, files)
    return model.eval()


class _NoRandomFill(TorchFunctionMode):
    """Leaves out the random start of weights that are about to be loaded.

    It is two of the three seconds that a vit_base takes to build. What is computed and not random,
    such as tables of positions, is as ever; and the weights are loaded strictly, each of them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return args[0] if func in _RANDOM_FILLS else func(*args, **(kwargs or {}))


# erfinv_ turns uniform numbers into truncated normal ones.
_RANDOM_FILLS = (torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_)
