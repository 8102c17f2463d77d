"""A timm network taken apart: what its last layer is given, and that layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moderate.classify.bundle import ModelFiles
from moderate.classify.device import Placement
from moderate.classify.labels import activate, model_batch
from moderate.classify.model import WithHead, build_model, load_model
from moderate.decode.resize import Pixels
from moderate.errors import WeightsError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.classify.backends.torch_backend import TorchBackend

Features = NDArray[np.float32]
"""N x F: what the last layer of a network is given for each of N images."""

BACKBONE = "backbone."
"""What tensors of `WithHead` that are the timm network's start with."""


def last_layer(model: nn.Module, architecture: str) -> tuple[str, nn.Linear]:
    """The linear layer that a timm network ends with, and its name.

    Raises WeightsError for a network that ends in another way, such as with two layers.
    """
    get_classifier: Any = getattr(model, "get_classifier", lambda: None)
    found = get_classifier()
    for name, module in model.named_modules():
        if module is found and isinstance(module, nn.Linear):
            return name, module
    raise WeightsError(
        f"{printable(architecture)} does not end with one linear layer, so that no other one can "
        "take its place; train on another network"
    )


def take_apart(files: ModelFiles) -> tuple[nn.Module, nn.Module]:
    """The network without its last layer, and what that layer makes of it. Raises WeightsError.

    Of a network with an MLP head, the head as a whole is the last layer.
    """
    model = load_model(files)
    if isinstance(model, WithHead):
        return model.backbone, model.head
    name, layer = last_layer(model, files.architecture)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model, layer


def with_layer(
    files: ModelFiles,
    tensors: dict[str, torch.Tensor],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> dict[str, torch.Tensor]:
    """The tensors of timm's network with another last layer: K x F and K.

    `tensors` are those of the model that `files` names, of which the network's own are kept.
    Raises WeightsError.
    """
    with torch.device("meta"):
        network = build_model(files.architecture, len(bias), files.card.model_args, None)
    name, layer = last_layer(network, files.architecture)
    if layer.bias is None or tuple(layer.weight.shape) != weight.shape:
        shape = "without a bias" if layer.bias is None else f"of {layer.in_features} values"
        raise WeightsError(
            f"{printable(files.architecture)}: its last layer is one {shape}, and the head one of "
            f"{weight.shape[1]} values and a bias"
        )
    if files.card.head is not None:
        tensors = {
            key.removeprefix(BACKBONE): tensor
            for key, tensor in tensors.items()
            if key.startswith(BACKBONE)
        }
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{name}.")}
    kept[f"{name}.weight"] = torch.from_numpy(weight)
    kept[f"{name}.bias"] = torch.from_numpy(bias)
    return kept


class FeatureModel:
    """The network of a model without its last layer, on a device, run by torch; see `close`.

    Raises WeightsError or DeviceError while it is built.
    """

    def __init__(self, files: ModelFiles, placement: Placement, batch_size: int) -> None:
        from moderate.classify.backends.torch_backend import TorchBackend

        self._activation = files.card.activation
        self._batch = model_batch(placement, batch_size)
        self._last: nn.Module

        def load(_: ModelFiles) -> nn.Module:
            network, self._last = take_apart(files)
            return network

        self._backend: TorchBackend = TorchBackend(
            files, placement, batch_size=self._batch, load=load
        )

    def features(self, pixels: Pixels) -> Features:
        """The features of N x H x W x 3 pixels, uint8 or float32 in 0..255.

        Batches have one size, as where images are scored, so that an image's features do not
        depend on the others.
        """
        started = []
        for first in range(0, len(pixels), self._batch):
            part = pixels[first : first + self._batch]
            whole = np.zeros((self._batch, *pixels.shape[1:]), pixels.dtype)
            whole[: len(part)] = part
            started.append((self._backend.start(whole), len(part)))
        found = np.concatenate([wait()[:count] for wait, count in started])
        if found.ndim != 2:
            raise WeightsError(
                f"the network gives {found.ndim - 1} dimensions of features for an image, not one"
            )
        return found

    def probabilities(self, features: Features) -> NDArray[np.float32]:
        """The probabilities of the model's labels, N x labels, of images with these features."""
        with torch.inference_mode():
            logits = self._last(torch.from_numpy(features)).numpy()
        return activate(logits, self._activation)

    def close(self) -> None:
        """Let go of what the backend holds."""
        self._backend.close()
