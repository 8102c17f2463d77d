"""A timm network taken apart: what its last layer is given, and that layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moderate.classify.bundle import ModelFiles
from moderate.classify.device import Placement
from moderate.classify.labels import activate, model_batch
from moderate.classify.model import WithHead, build_model, load_model
from moderate.classify.words_head import WithWords
from moderate.decode.resize import Pixels
from moderate.errors import WeightsError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.classify.backends.torch_backend import TorchBackend

Features = NDArray[np.float32]
"""N x F: what the last layer of a network is given for each of N images."""

_BACKBONE, _TOWER = "backbone.", "tower."
"""What tensors of `WithHead` and `WithWords` that are the timm network's start with."""


def last_layers(model: nn.Module, architecture: str) -> dict[str, nn.Linear]:
    """The linear layers that a timm network ends with, by name: one, or two of which it takes the

    mean, as networks that were distilled do. Raises WeightsError for what ends in another way.
    """
    get_classifier: Any = getattr(model, "get_classifier", lambda: None)
    last = get_classifier()
    wanted = last if isinstance(last, tuple) else (last,)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(module is each for each in wanted)
    }
    shapes = {tuple(module.weight.shape) for module in found.values()}
    if len(found) != len(wanted) or len(shapes) != 1:
        raise WeightsError(
            f"{printable(architecture)} does not end with one linear layer, so that no other one "
            "can take its place; train on another network"
        )
    return found


@dataclass(frozen=True, slots=True)
class TakenApart:
    """A network without its last layer, which gives features, and that layer.

    last is None where the network does more with features than to give them to one layer.
    """

    network: nn.Module
    last: Callable[[torch.Tensor], torch.Tensor] | None


def take_apart(files: ModelFiles) -> TakenApart:
    """Take a model's network apart. Raises WeightsError.

    Of a network with an MLP head, the head as a whole is the last layer, and of one with prompts
    their comparison. Of one with two layers, features are the mean of what both are given.
    """
    model = load_model(files)
    if isinstance(model, WithHead):
        return TakenApart(model.backbone, model.head)
    if isinstance(model, WithWords):
        return TakenApart(model.tower, model.compare)
    images = torch.rand(
        2, 3, *files.card.preprocess.size, generator=torch.Generator().manual_seed(0)
    )
    layers = last_layers(model, files.architecture)
    last = _mean(list(layers.values()))
    with torch.inference_mode():
        logits = model(images)
        for name in layers:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, nn.Identity())
        same = torch.allclose(last(model(images)), logits, rtol=1e-3, atol=1e-4)
    return TakenApart(model, last if same else None)


def _mean(layers: Sequence[nn.Linear]) -> nn.Linear:
    """The layer that gives the mean of what these give of the same input."""
    first = layers[0]
    if len(layers) == 1:
        return first
    mean = nn.Linear(first.in_features, first.out_features, bias=first.bias is not None)
    with torch.no_grad():
        mean.weight.copy_(torch.stack([layer.weight for layer in layers]).mean(dim=0))
        if first.bias is not None:
            mean.bias.copy_(torch.stack([layer.bias for layer in layers]).mean(dim=0))
    return mean


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
    if prefix := _BACKBONE if files.card.head else _TOWER if files.card.words else "":
        tensors = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
    with torch.device("meta"):
        network = build_model(files.architecture, len(bias), files.card.model_args, None)
    layers = last_layers(network, files.architecture)
    if files.card.words and files.card.words.projected:
        # The tower's own last layer projects to the features: two linear layers make one.
        (name,) = layers
        projection = tensors[f"{name}.weight"].double().numpy()
        bias = (bias + weight @ tensors[f"{name}.bias"].double().numpy()).astype(np.float32)
        weight = (weight @ projection).astype(np.float32)
    for layer in layers.values():
        if layer.bias is None or tuple(layer.weight.shape) != weight.shape:
            shape = "without a bias" if layer.bias is None else f"of {layer.in_features} values"
            raise WeightsError(
                f"{printable(files.architecture)}: its last layer is one {shape}, and the head "
                f"one of {weight.shape[1]} values and a bias"
            )
    replaced = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    kept = {key: tensor for key, tensor in tensors.items() if key not in replaced}
    for name in layers:
        kept[f"{name}.weight"] = torch.from_numpy(weight.copy())
        kept[f"{name}.bias"] = torch.from_numpy(bias.copy())
    return kept


class FeatureModel:
    """The network of a model without its last layer, on a device, run by torch; see `close`.

    Raises WeightsError or DeviceError while it is built.
    """

    def __init__(self, files: ModelFiles, placement: Placement, batch_size: int) -> None:
        from moderate.classify.backends.torch_backend import TorchBackend

        self._activation = files.card.activation
        self._batch = model_batch(placement, batch_size)
        self._last: Callable[[torch.Tensor], torch.Tensor] | None = None

        def load(_: ModelFiles) -> nn.Module:
            apart = take_apart(files)
            self._last = apart.last
            return apart.network

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

    def probabilities(self, features: Features) -> NDArray[np.float32] | None:
        """The probabilities of the model's labels, N x labels, of images with these features.

        None for a network whose labels depend on more than the features.
        """
        if self._last is None:
            return None
        with torch.inference_mode():
            logits = self._last(torch.from_numpy(features)).numpy()
        return activate(logits, self._activation)

    def close(self) -> None:
        """Let go of what the backend holds."""
        self._backend.close()
