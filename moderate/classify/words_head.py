"""A tower of CLIP or SigLIP for images, and how well each prompt fits what it sees."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from moderate.classify.words import Words


class WithWords(nn.Module):
    """A timm image tower and the vectors of prompts; see `Words` for what its outputs are.

    The weights carry the prefixes `tower.` and `prompts.`. The latter are a linear layer on
    features of length 1: the vectors of the prompts times the checkpoint's scale, and its bias.
    """

    fits: torch.Tensor
    against: torch.Tensor

    def __init__(self, tower: nn.Module, words: Words) -> None:
        super().__init__()
        self.tower = tower
        self.prompts = nn.Linear(words.features, words.columns)
        # Labels with nothing against them have the zero that is added behind the columns.
        nothing = words.columns
        against = [columns or (nothing,) for columns in words.against]
        self.register_buffer("fits", _masks(words.fits, nothing + 1), persistent=False)
        self.register_buffer("against", _masks(against, nothing + 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W normalised pixels to N x labels logits."""
        features: torch.Tensor = self.tower(images)
        device = features.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            # Cosines are multiplied by some 100: what a half precision leaves out would show.
            with torch.autocast(device, enabled=False):
                return self.compare(features.float())
        return self.compare(features)

    def compare(self, features: torch.Tensor) -> torch.Tensor:
        """N x features of the tower to N x labels logits."""
        columns = self.prompts(functional.normalize(features, dim=-1))
        columns = functional.pad(columns, (0, 1)).unsqueeze(1)
        return _log_sum_exp(columns + self.fits) - _log_sum_exp(columns + self.against)


def _masks(rows: tuple[tuple[int, ...], ...] | list[tuple[int, ...]], width: int) -> torch.Tensor:
    """1 x rows x width: 0 for the columns of a row, minus infinity for the others."""
    masks = torch.full((1, len(rows), width), -torch.inf)
    for row, columns in enumerate(rows):
        masks[0, row, list(columns)] = 0.0
    return masks


def _log_sum_exp(values: torch.Tensor) -> torch.Tensor:
    """torch.logsumexp over the last axis, of the operations that programs have."""
    largest = values.amax(-1, keepdim=True)
    return (values - largest).exp().sum(-1).log() + largest.squeeze(-1)
