"""A model that takes pixels as the decoders write them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def normalised_images(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """N x H x W x 3 pixels as N x 3 x H x W, less mean and divided by std, which apply to 0..255.

    A copy: N x H x W x 3 seen as N x 3 x H x W is what torch calls channels_last.
    """
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, copy=True)
    return images.sub_(mean).div_(std)


class Normalised(nn.Module):
    """A model with its normalisation in front; mean and std apply to 0..1 values."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(shape) * 255)
        self.register_buffer("std", torch.tensor(std).view(shape) * 255)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """N x H x W x 3 pixels, uint8 or float32 in 0..255, to N x labels logits."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32)
        logits: torch.Tensor = self.model((images - self.mean) / self.std)
        return logits
